"""The stories of the file pool, told again on a thin pool: the very same functions, wherever they make sense on both.

Left out are those that are about files themselves (modes, inodes, what stands beside them), and those that no pool has a part in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stories.conftest import conforms, s3, zygote  # noqa: F401 - fixtures
from tests.stories.gate import Gate
from tests.stories.test_beside import (  # noqa: F401
    service,
    test_what_is_committed_is_made_and_stays,
    test_what_is_withdrawn_goes_without_waiting_for_the_download,
)
from tests.stories.test_converge import (  # noqa: F401
    test_before_the_first_run_there_is_nothing_to_list_and_nothing_is_made,
    test_everything_can_be_read_as_json_and_as_words,
    test_plan_and_check_say_the_same_and_write_nothing,
    test_the_first_run_makes_everything_and_the_second_changes_nothing,
)
from tests.stories.test_crashes import (  # noqa: F401
    calm,
    test_killed_again_and_again_at_the_same_early_moment,
    test_killed_at_any_moment_of_a_replacement,
    test_killed_at_any_moment_of_an_update_and_a_prune,
    test_killed_at_any_moment_of_the_first_run,
    undisturbed,
)
from tests.stories.test_customized import test_a_read_only_snapshot_is_a_read_only_drive  # noqa: F401
from tests.stories.test_failures import test_an_image_that_fails_says_why_and_the_others_go_on  # noqa: F401
from tests.stories.test_growing import (  # noqa: F401
    test_a_claimed_snapshot_grows_and_its_claim_names_what_the_guest_has_to_do,
    test_a_larger_size_grows_the_device_and_leaves_what_a_guest_has_written,
    test_a_smaller_size_is_refused_and_the_rest_of_the_image_goes_on,
    test_an_unclaimed_snapshot_that_is_recycled_is_created_with_the_new_size,
    test_killed_at_any_moment_of_growth_the_next_run_completes_it,
)
from tests.stories.test_registry import (  # noqa: F401
    real,
    test_a_moved_tag_is_a_changed_image,
    test_a_registry_that_fails_costs_its_own_images_only,
    test_an_image_outlives_its_registry,
)
from tests.stories.test_removal import (  # noqa: F401
    converged,
    test_a_snapshot_in_use_is_not_removed,
    test_a_withdrawn_image_is_kept_until_it_is_pruned,
    test_a_withdrawn_snapshot_goes_alone,
    test_an_empty_set_is_never_pruned,
    test_retain_keeps_what_is_no_longer_declared,
    test_volumes_that_others_need_survive_a_prune,
)
from tests.stories.test_renames import (  # noqa: F401
    named,
    node,
    test_a_renamed_image_keeps_everything,
    test_an_image_that_is_forgotten_leaves_its_snapshots_where_they_are,
    test_without_being_told_the_snapshots_change_hands_all_the_same,
)
from tests.stories.test_snapshots import (  # noqa: F401
    test_a_changed_image_is_built_beside_the_snapshots_of_the_old_one,
    test_a_new_snapshot_is_made_beside_the_old_ones,
    test_later_layers_replace_and_hide_what_earlier_ones_brought,
    test_what_is_written_to_one_snapshot_stays_there,
)
from tests.stories.test_unpinned import (  # noqa: F401
    test_a_replaced_object_is_noticed,
    test_only_what_was_replaced_is_fetched_again,
)
from tests.stories.test_updates import (  # noqa: F401
    installed,
    site,
    test_a_guest_can_neither_lose_its_snapshot_nor_fake_its_replacement,
    test_a_snapshot_in_use_waits_until_it_is_free,
    test_back_to_the_old_version_before_anything_was_replaced,
    test_recreating_a_snapshot_in_use_fails_and_names_its_holder,
    test_snapshots_are_replaced_where_the_manifest_says_so,
)
from tests.stories.test_wishes import (  # noqa: F401
    test_a_selector_limits_a_run_to_the_images_it_names,
    test_a_selector_removes_nothing,
    test_a_selector_without_a_match_does_nothing,
    test_time_runs_out_and_the_next_run_goes_on,
    two,
)
from tests.stories.workshop import BUCKET, WorkshopAt
from tests.support.zygote import Zygote

from .workshop import ThinWorkshop


@pytest.fixture(scope="session")
def workshop_at(zygote: Zygote) -> WorkshopAt:  # noqa: F811
    return lambda root: ThinWorkshop(root, zygote)


@pytest.fixture(autouse=True)
def _one_at_a_time(workshop_at: WorkshopAt, tmp_path: Path) -> Iterator[None]:
    """All workshops have a pool of the same name."""
    yield
    ThinWorkshop(tmp_path, None).take_down()  # type: ignore[arg-type] - no command is run


@pytest.fixture
def workshop(tmp_path: Path, workshop_at: WorkshopAt) -> ThinWorkshop:
    made = workshop_at(tmp_path)
    assert isinstance(made, ThinWorkshop)
    return made


@pytest.fixture
def bucket(workshop: ThinWorkshop, s3: str) -> Iterator[ThinWorkshop]:  # noqa: F811
    with Gate(s3) as gate:
        made = replace(workshop, gate=gate, upstream=s3)
        made.upload("/moto-api/reset", method="POST")
        made.upload(f"/{BUCKET}")
        yield made


@pytest.fixture
def host(converged: ThinWorkshop, tmp_path: Path) -> ThinWorkshop:  # noqa: F811
    return converged.copy(tmp_path / "host")
