"""Opens a page on which pictures are classified: `python -m utils.page`."""

import argparse

from utils.commands import one_line_errors
from utils.environment import need_tensorflow
from utils.page.layout import build_page, launch_page

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m utils.page", description=__doc__)
    parser.add_argument("--port", type=int, help="default: the first that is free from 7860 on")
    parser.add_argument("--share", action="store_true", help="with a public link of Gradio's")
    parser.add_argument("--browser", action="store_true", help="open it in the browser as well")
    arguments = parser.parse_args()
    with one_line_errors(parser):
        need_tensorflow("Grad-CAM")
        page = build_page()
        try:
            launch_page(
                page,
                server_port=arguments.port,
                share=arguments.share,
                inbrowser=arguments.browser,
            )
        except OSError as error:  # of Gradio, about the port
            raise OSError(f"{error} Choose another --port, or none.") from error
