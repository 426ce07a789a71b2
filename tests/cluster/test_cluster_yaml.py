"""cluster.yaml, read by Ray's launcher."""

import yaml

from tests.conftest import ROOT


def test_rays_own_validator_accepts_it():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["provider"]["type"] == "local"
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])


def test_every_machine_has_a_role():
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    roles = config["initialization_commands"][0]
    for address in [config["provider"]["head_ip"], *config["provider"]["worker_ips"]]:
        assert f'" {address} "' in roles
