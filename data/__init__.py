"""What a model learns from: data sets, text, batches. Importing it registers the data sets."""

from data import converted as converted
from data import easy_vqa as easy_vqa
from data import llava as llava
from data import mixture as mixture
from data import proxies as proxies
from data.base import DATASETS

__all__ = ["DATASETS"]
