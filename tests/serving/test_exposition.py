"""Metrics of several nodes as one text."""

from ecr_ray.serving.exposition import joined

ONE = """# HELP ray_ecr_serve_requests_total Answered requests
# TYPE ray_ecr_serve_requests_total counter
ray_ecr_serve_requests_total{node="1"} 3.0
# HELP ray_node_cpu Not ours
# TYPE ray_node_cpu gauge
ray_node_cpu{node="1"} 0.5
"""
TWO = ONE.replace('"1"', '"2"')


def test_every_family_once_with_the_samples_of_all():
    assert joined([ONE, "# http://10.0.0.3:1/metrics did not answer\n", TWO]) == (
        "# http://10.0.0.3:1/metrics did not answer\n"
        "# HELP ray_ecr_serve_requests_total Answered requests\n"
        "# TYPE ray_ecr_serve_requests_total counter\n"
        'ray_ecr_serve_requests_total{node="1"} 3.0\n'
        'ray_ecr_serve_requests_total{node="2"} 3.0\n'
    )


def test_prometheus_own_parser_reads_it():
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(joined([ONE, TWO])))
    assert [len(family.samples) for family in families] == [2]
