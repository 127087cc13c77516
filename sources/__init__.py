"""Where data comes from: HTTP, files, and the shape of the unified record. Knows no Flask, no Celery, no SQLAlchemy.

A source's author imports everything from here.
"""

from sources.contract import Page, Rate, Source, Upstream, Window
from sources.csv_files import source as csv_source
from sources.csv_fileset import FileSet
from sources.json_body import read_json

__all__ = ["FileSet", "Page", "Rate", "Source", "Upstream", "Window", "csv_source", "read_json"]
