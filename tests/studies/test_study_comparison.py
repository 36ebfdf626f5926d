"""What is said of figures that are known: means, gains, tests, relative gain, negative transfer, costs, curves."""

import made_up_study
import numpy as np
import pytest
import scipy.stats
from made_up_study import SINGLE, TASKS, VARIANTS, measured, settings

from mtl_cli.studies.bootstrap import Bootstrap
from mtl_cli.studies.budgets import unequal_budgets
from mtl_cli.studies.comparison import compare
from mtl_cli.studies.costs import costs_of
from mtl_cli.studies.gaps import gaps_of
from mtl_cli.studies.learning_curves import learning_curves
from mtl_cli.studies.report import make_report
from mtl_cli.studies.transfer import best_groups, partitions, transfer_of
from mtl_cli.tracking import RunFolder


def test_gains_and_their_tests_are_scipys_and_positive_means_better():
    comparison = compare(measured(), "validation", {})
    for variant, of_tasks in VARIANTS.items():
        for task, values in of_tasks.items():
            cell = comparison.variants[variant].tasks[task]
            sign = 1 if TASKS[task].higher_is_better else -1
            expected = scipy.stats.ttest_rel(sign * np.array(values), sign * np.array(SINGLE[task]))
            assert cell.gain.p == pytest.approx(expected.pvalue)
            assert cell.gain.difference.mean == pytest.approx(sign * (np.mean(values) - np.mean(SINGLE[task])))
            assert list(cell.values.values()) == values


def test_negative_transfer_is_named_and_noise_is_not():
    comparison = compare(measured(), "validation", {})
    equal, pcgrad = comparison.variants["equal"], comparison.variants["pcgrad"]
    assert (equal.better, equal.worse) == (["rte"], ["sts"])
    assert (pcgrad.better, pcgrad.worse) == ([], [])


def test_delta_m_is_the_mean_over_seeds_of_the_mean_over_tasks():
    comparison = compare(measured(), "validation", {})
    # seed 1: (0.70-0.60)/0.60 = 16.667 %, -(1.50-1.00)/1.00 = -50 %; mean -16.667 %
    # seed 2: (0.72-0.62)/0.62 = 16.129 %, -(1.53-1.02)/1.02 = -50 %; mean -16.935 %
    # seed 3: (0.72-0.61)/0.61 = 18.033 %, -(1.49-0.98)/0.98 = -52.041 %; mean -17.004 %
    delta = comparison.variants["equal"].delta_m
    assert delta.mean == pytest.approx((-16.6667 - 16.9355 - 17.0040) / 3, abs=1e-3)
    assert delta.low < delta.mean < delta.high


def test_ranks_are_among_single_task_training_and_all_variants():
    comparison = compare(measured(), "validation", {})
    # rte: equal 1, the others share 2.5. sts: pcgrad and single share 1.5, equal 3.
    assert comparison.single_rank == comparison.variants["pcgrad"].mean_rank == 2.0
    assert comparison.variants["equal"].mean_rank == 2.0


def test_pairs_are_the_seeds_that_both_have():
    comparison = compare(measured(missing=["variant=equal,seed=2", "single=sts,seed=3"]), "validation", {})
    cells = comparison.variants["equal"].tasks
    assert (cells["rte"].gain.difference.n, cells["sts"].gain.difference.n) == (2, 1)
    assert cells["sts"].gain.p is None
    assert not cells["sts"].beyond_noise
    assert comparison.variants["equal"].delta_m.n == 1


def test_in_a_study_of_several_seeds_the_bootstrap_over_examples_never_decides():
    drawn = Bootstrap(difference=-0.5, low=-0.6, high=-0.4, p=0.001, num_examples=277, num_resamples=1000)
    found = measured(missing=["single=sts,seed=2", "single=sts,seed=3"])
    cell = compare(found, "validation", {("equal", "sts"): drawn}).variants["equal"].tasks["sts"]
    assert (cell.gain.difference.n, cell.decided_by) == (1, "seeds")
    assert cell.bootstrap_p_holm < 0.05
    assert cell.decisive_p is None
    assert not cell.beyond_noise


def test_a_split_without_labels_is_left_out():
    found = measured(splits=("validation",))
    assert found.splits() == ["validation"]
    assert compare(found, "test", {}).single == {}


def test_the_report_is_about_the_split_that_was_asked_for_first():
    assert measured(settings(split="test")).splits() == ["test", "validation"]


def test_single_task_training_costs_the_sum_of_its_runs():
    costs = costs_of(measured())
    assert costs["single"].parameters == 2 * 2000
    assert costs["equal"].parameters == 3000
    assert costs["single"].tokens == costs["equal"].tokens == 2000
    assert costs["single"].passes_of_tasks == {"rte": 3.0, "sts": 3.0}
    assert unequal_budgets(measured(), costs, []) == []


def test_a_seed_that_did_not_count_what_it_saw_is_left_out_of_the_passes():
    found = measured()
    found.results["variant=equal,seed=2"].seen.clear()
    found.results["variant=equal,seed=3"].seen["rte"].passes = 5.0
    found.results["single=rte,seed=1"].seen.clear()
    costs = costs_of(found)
    assert costs["equal"].passes_of_tasks == {"rte": 4.0, "sts": 3.0}
    assert costs["single"].passes_of_tasks == {"rte": 3.0, "sts": 3.0}


def test_a_variant_that_saw_more_of_a_task_is_named():
    found = measured()
    for seed in (1, 2, 3):
        found.results[f"variant=equal,seed={seed}"].seen["rte"].passes = 4.5
    assert make_report("s", found, {}).notes[-1] == "equal saw the training rows of rte 4.50 times (alone 3.00)."


def test_sizes_and_pairs_that_saw_more_of_a_task_are_named():
    found = measured(settings(low_resource=[100, "all"], low_resource_task="rte", pairs=True))
    for seed in (1, 2, 3):
        found.results[f"single=rte,size=100,seed={seed}"].seen["rte"].passes = 64.0
        found.results[f"pair=rte+sts,seed={seed}"].seen["sts"].passes = 1.5
    assert [note for note in make_report("s", found, {}).notes if "saw" in note] == [
        "equal saw the training rows of rte at 100 examples 3.00 times (alone 64.00).",
        "pcgrad saw the training rows of rte at 100 examples 3.00 times (alone 64.00).",
        "the pair rte+sts saw the training rows of sts 1.50 times (alone 3.00).",
    ]


def test_groups_are_proposed_by_validation_also_where_the_report_is_about_test():
    report = make_report("s", measured(settings(pairs=True, split="test")), {})
    assert report.comparisons[0].split == "test"
    assert report.transfer.split == "validation"
    assert report.transfer.cells["rte", "sts"].gain.difference.mean == pytest.approx(0.05)  # on test 0.045


def test_a_curve_has_a_point_at_each_size_with_its_test():
    found = measured(settings(low_resource=[300, 100, "all"], low_resource_task="rte"))
    (curve,) = learning_curves(found, "validation")
    assert curve.task == "rte"
    assert [point.size for point in curve.systems["equal"]] == [100, 300, 2490]
    assert [point.mean.mean for point in curve.systems["single"]] == pytest.approx([0.305, 0.305, 0.61])
    small = curve.systems["equal"][0]
    assert small.passes == 3.0
    expected = scipy.stats.ttest_rel([v / 2 for v in VARIANTS["equal"]["rte"]], [v / 2 for v in SINGLE["rte"]])
    assert small.gain.p == pytest.approx(expected.pvalue)
    assert small.p_holm == pytest.approx(min(1, 3 * expected.pvalue))


def test_the_gap_is_positive_where_training_is_better_also_of_errors(tmp_path):
    found = measured(settings(generalisation=True))
    train = {}
    for job, results in found.results.items():
        found.folders[job] = RunFolder(tmp_path / job)
        better = {"rte": 0.1, "sts": -0.2} if job.startswith("single") else {"rte": 0.05, "sts": -0.1}
        better["rte"] += results.tasks.get("rte", {}).get("validation", {}).get("accuracy", 0) / 1000
        train[job] = {
            task: splits["validation"][TASKS[task].metric] + better[task] for task, splits in results.tasks.items()
        }
    gaps = gaps_of(found, train)
    assert gaps["single"]["sts"].gap.mean == pytest.approx(0.2)
    assert gaps["equal"]["sts"].gap.mean == pytest.approx(0.1)
    assert gaps["equal"]["rte"].difference.difference.mean == pytest.approx(-0.05, abs=0.001)
    assert gaps["equal"]["rte"].p_holm < 0.05
    assert gaps["single"]["rte"].difference is None


def test_the_transfer_matrix_holds_the_gain_of_the_row_in_the_company_of_the_column():
    transfer = transfer_of(measured(settings(pairs=True)), "validation")
    cell = transfer.cells["rte", "sts"]
    assert cell.gain.difference.mean == pytest.approx(0.05)
    assert cell.percent == pytest.approx(100 / 3 * (0.05 / 0.60 + 0.05 / 0.62 + 0.05 / 0.61))
    assert transfer.cells["sts", "rte"].gain.difference.mean == pytest.approx(-0.11)  # errors of 0.10, 0.11, 0.12 more
    assert transfer.groups.groups == [["rte"], ["sts"]]
    assert transfer_of(measured(), "validation") is None


def test_no_groups_are_proposed_where_a_pair_is_missing():
    missing = [f"pair=rte+sts,seed={seed}" for seed in (1, 2, 3)]
    transfer = transfer_of(measured(settings(pairs=True), missing=missing), "validation")
    assert transfer.groups is None
    assert "rte with sts is missing" in transfer.why_no_groups


@pytest.mark.parametrize(("num", "bell"), [(0, 1), (1, 1), (3, 5), (5, 52), (8, 4140)])
def test_partitions_are_as_many_as_bells_numbers_and_all_different(num, bell):
    found = [tuple(map(tuple, groups)) for groups in partitions(list("abcdefgh"[:num]))]
    assert len(found) == len(set(found)) == bell
    assert all(sorted(item for group in groups for item in group) == list("abcdefgh"[:num]) for groups in found)


def test_the_best_groups_by_hand():
    # a and b help each other (+4 each), c helps a (+1), everything else hurts (-2): together with c, a has (4 + 1) / 2,
    # b (4 - 2) / 2 and c -2, in sum 1.5; [a, b] and c alone have 8.
    percents = dict.fromkeys([(i, j) for i in "abc" for j in "abc" if i != j], -2.0)
    percents |= {("a", "b"): 4.0, ("b", "a"): 4.0, ("a", "c"): 1.0}
    best = best_groups(["a", "b", "c"], percents)
    assert best.groups == [["a", "b"], ["c"]]
    assert best.predicted_percent == pytest.approx(8 / 3)
    assert best.together_percent == pytest.approx(1.5 / 3)


def test_where_no_task_helps_another_each_stays_alone():
    percents = dict.fromkeys([(i, j) for i in "abc" for j in "abc" if i != j], -1.0)
    assert best_groups(["a", "b", "c"], percents).groups == [["a"], ["b"], ["c"]]


def test_made_up_plans_know_their_runs():
    plan = made_up_study.plan_of(settings(pairs=True, low_resource=[100, "all"]))
    # 3 seeds of: 2 single + 2 variants, the same at one size, 1 pair
    assert len(plan.jobs) == 3 * (4 + 4 + 1)
