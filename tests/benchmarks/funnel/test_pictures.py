from benchmarks.funnel.pictures import every_fifth


def test_snapshots_nearest_to_each_fifth_are_chosen():
    snapshots = {step: f"at {step}" for step in range(0, 110, 10)}
    assert list(every_fifth(snapshots)) == [0, 20, 40, 60, 80, 100]
    assert every_fifth({0: "start", 7: "stop"}) == {0: "start", 7: "stop"}
