"""What a model is tested on. Importing it registers the benchmarks."""

from data.benchmarks import easy_vqa as easy_vqa
from data.benchmarks import gqa as gqa
from data.benchmarks import pope as pope
from data.benchmarks import proxies as proxies
from data.benchmarks import textvqa as textvqa
from data.benchmarks import vizwiz as vizwiz
from data.benchmarks import vqav2 as vqav2
from data.benchmarks import vsr as vsr
from data.benchmarks.base import BENCHMARKS

__all__ = ["BENCHMARKS"]
