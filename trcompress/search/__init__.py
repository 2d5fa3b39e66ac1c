"""Budget -> plan: modes, their order and ranks.

modes, rank_profiles -> trials -> explore -> weight_search -> network_search -> outputs
"""

from trcompress.search.network_search import NetworkSearch, search_network
from trcompress.search.outputs import rank_by_outputs
from trcompress.search.weight_search import PlanRow, WeightSearch, search_weight

__all__ = ["NetworkSearch", "PlanRow", "WeightSearch", "rank_by_outputs", "search_network", "search_weight"]
