"""All faults by name."""

from collections.abc import Mapping

from tests.faults import brokers, network, overload, poison, records, soak, storage, workers
from tests.faults.bench import Scenario

SHORT = ("kills", "rolling_restart", "zombie")


def scenarios() -> Mapping[str, Scenario]:
    """Return all faults by name, in order."""
    faults = {
        "slow": network.slow,
        "resets": network.resets,
        "half_open": network.half_open,
        "cut_for_60_s": network.cut,
        "lost_commit": network.lost_commit,
    }
    return {
        "kills": workers.kills,
        "kills_exactly_once": workers.kills_exactly_once,
        "rolling_restart": workers.rolling_restart,
        "zombie": workers.zombie,
        **{f"broker_paused_{s}_s": lambda bench, s=s: brokers.broker_paused(bench, float(s)) for s in (5, 30, 90)},
        "broker_killed": brokers.broker_killed,
        "one_of_three_killed": brokers.one_of_three_killed,
        "members_come_and_go": workers.members_come_and_go,
        "poison": poison.poison,
        "disorder": records.disorder,
        "partitions_and_workers": workers.partitions_and_workers,
        "restore": workers.restore,
        "disk_full": storage.disk_full,
        "archive_disk_full": storage.archive_disk_full,
        "unread_ticks_deleted": storage.unread_ticks_deleted,
        "burst": overload.burst,
        "burst_skipped": overload.burst_skipped,
        "scorer_slow": overload.scorer_slow,
        **{f"proxy_{name}": lambda bench, fault=fault: network.proxied(bench, fault) for name, fault in faults.items()},
        "soak": soak.soak,
    }
