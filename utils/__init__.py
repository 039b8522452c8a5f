import os

# TensorFlow leaves oneDNN's kernels off on CPUs without AVX-512 VNNI or newer instructions, which
# train half as fast then (05_performance). It reads this once, when it is imported.
# Source: TensorFlow 2.9, release notes.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
