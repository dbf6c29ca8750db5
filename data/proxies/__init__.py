"""Rendered stand-ins for the paper's six benchmarks. Importing it registers the data sets."""

from data.proxies import gqa as gqa
from data.proxies import pope as pope
from data.proxies import textvqa as textvqa
from data.proxies import vizwiz as vizwiz
from data.proxies import vqa as vqa
from data.proxies import vsr as vsr
