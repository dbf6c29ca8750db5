"""What a model learns from: data sets, text, batches. Importing it registers the data sets."""

from ablate.data import converted as converted
from ablate.data import easy_vqa as easy_vqa
from ablate.data import llava as llava
from ablate.data import mixture as mixture
from ablate.data import proxies as proxies
from ablate.data.base import DATASETS

__all__ = ["DATASETS"]
