"""What `trcompress` offers, for type checkers; `__init__.py` loads the same names on first use."""

from trcompress.artifact.expand import expand as expand
from trcompress.artifact.file import Artifact as Artifact
from trcompress.artifact.file import read_artifact as read_artifact
from trcompress.artifact.load import load as load
from trcompress.artifact.load import load_ as load_
from trcompress.artifact.pretrained import PretrainedMixin as PretrainedMixin
from trcompress.artifact.pretrained import from_pretrained as from_pretrained
from trcompress.artifact.pretrained import save_pretrained as save_pretrained
from trcompress.artifact.report import make_report
from trcompress.artifact.save import save as save
from trcompress.artifact.write import write_artifact as write_artifact
from trcompress.checkpoint import inspect as inspect
from trcompress.checkpoint import read_checkpoint as read_checkpoint
from trcompress.deploy import to_plain as to_plain
from trcompress.deploy.export import export as export
from trcompress.errors import TrcompressError as TrcompressError
from trcompress.formats import BlockTerm as BlockTerm
from trcompress.formats import TensorRing as TensorRing
from trcompress.formats import TensorTrain as TensorTrain
from trcompress.layers import TRGRU as TRGRU
from trcompress.layers import TRLSTM as TRLSTM
from trcompress.layers import TRRNN as TRRNN
from trcompress.layers import TRGRUCell as TRGRUCell
from trcompress.layers import TRLSTMCell as TRLSTMCell
from trcompress.layers import TRRNNCell as TRRNNCell
from trcompress.model.plan import Plan as Plan
from trcompress.model.plan import Rule as Rule
from trcompress.network.classifier import Wiring as Wiring
from trcompress.passes.budgeted import search_plan as search_plan
from trcompress.passes.compress import compress_ as compress_
from trcompress.passes.compress_checkpoint import compress as compress
from trcompress.passes.decompose import decompose as decompose
from trcompress.search import NetworkSearch as NetworkSearch
from trcompress.search.plan import plan as plan
from trcompress.timing.bench import bench as bench
from trcompress.training.distill_loss import DistillLoss as DistillLoss
from trcompress.training.evaluate import evaluate as evaluate
from trcompress.training.finetune import finetune as finetune
from trcompress.training.settings import DistillSettings as DistillSettings
from trcompress.training.settings import FinetuneSettings as FinetuneSettings
from trcompress.version import __version__ as __version__

report = make_report
