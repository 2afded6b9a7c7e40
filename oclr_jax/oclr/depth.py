"""One depth order for all objects of a video, from votes on pairs."""

from collections import defaultdict
from collections.abc import Sequence


def depth_order(ids: Sequence[int], votes: dict[tuple[int, int], float]) -> list[int]:
    """Returns the ids front to back.

    `votes` are by pair (lower id, higher id), positive where the lower id is in front. Repeatedly
    takes the id with the fewest votes for being behind the ids that are left; of ties, the lowest.
    Exact if the votes do not contradict each other, also for pairs without votes.
    """
    behind: dict[int, dict[int, float]] = {id: {} for id in ids}
    for (low, high), vote in votes.items():
        if vote and low in behind and high in behind:
            front, back = (low, high) if vote > 0 else (high, low)
            behind[back][front] = abs(vote)
    in_front_of = defaultdict(list)
    for back, fronts in behind.items():
        for front in fronts:
            in_front_of[front].append(back)
    left, order = set(ids), []
    while left:
        nearest = min(left, key=lambda id: (sum(behind[id].values()), id))
        left.remove(nearest)
        order.append(nearest)
        for back in in_front_of[nearest]:
            behind[back].pop(nearest, None)
    return order
