from ecr_ray.cluster import connect


def test_threads_wait_briefly_unless_the_environment_says_how():
    assert connect.waiting({"PATH": "/bin"}) == {"GOMP_SPINCOUNT": "10000"}
    for asked in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}):
        assert connect.waiting({"PATH": "/bin"} | asked) == asked
