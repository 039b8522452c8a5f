# Runs papermill; see docs/imagenet.md.
FROM python:3.12-slim
WORKDIR /project
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt opencv-python-headless "jax[cuda12]"
COPY . .
ENV KERAS_BACKEND=jax
ENTRYPOINT ["./docker-entrypoint.sh"]
