"""Budget -> plan: modes, their order and ranks.

modes, rank_profiles -> trials -> explore -> weight_search; allocation, outputs -> weights -> plan
"""

from trcompress.search.network_search import NetworkSearch
from trcompress.search.plan import search_network
from trcompress.search.weight_search import PlanRow, WeightSearch, search_weight

__all__ = ["NetworkSearch", "PlanRow", "WeightSearch", "search_network", "search_weight"]
