"""Rendered stand-ins for the paper's six benchmarks, and a gauge. Importing it registers them."""

from ablate.data.proxies import gauge as gauge
from ablate.data.proxies import gqa as gqa
from ablate.data.proxies import pope as pope
from ablate.data.proxies import textvqa as textvqa
from ablate.data.proxies import vizwiz as vizwiz
from ablate.data.proxies import vqa as vqa
from ablate.data.proxies import vsr as vsr
