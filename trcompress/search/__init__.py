"""Budget -> plan: modes, their order and ranks.

modes, rank_profiles -> trials -> explore -> weight_search -> network_search
"""

from trcompress.search.network_search import NetworkSearch, search_network
from trcompress.search.weight_search import PlanRow, WeightSearch, search_weight

__all__ = ["NetworkSearch", "PlanRow", "WeightSearch", "search_network", "search_weight"]
