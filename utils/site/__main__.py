"""Writes the static page from the results: `python -m utils.site`."""

import argparse
from pathlib import Path

from utils.commands import one_line_errors
from utils.files import replacing
from utils.site.build import render
from utils.site.contents import site_contents

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m utils.site", description=__doc__)
    parser.parse_args()
    page = Path("report/site/index.html")
    with one_line_errors(parser):
        with replacing(page, "w") as file:
            file.write(render(site_contents()))
        print(page)
