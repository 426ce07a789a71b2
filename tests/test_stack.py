"""The environment as installed: everything imports together, and the calls we lean on look as we think."""

import inspect
import subprocess
import sys
from importlib import metadata

import pytest

STACK = (
    "torch transformers peft trl deepspeed accelerate vllm ray.data.llm ray.train.torch ray.tune ray.serve nltk pyarrow"
)


def test_the_whole_stack_imports_in_one_process():
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(f"import {name}" for name in STACK.split())],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", ["torchvision", "torchaudio", "torchcodec"])
def test_a_cpu_torch_stands_without_packages_built_for_another(name):
    if "+cpu" not in metadata.version("torch"):
        pytest.skip("this torch is not a CPU build")
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version(name)


def test_every_module_imports_without_loading_an_engine():
    # Two modules are torch's or vLLM's classes through and through; the others import them where they are used.
    own = ("ecr_ray.scoring.engine_stats", "ecr_ray.recommender.network")
    code = (
        "import pkgutil, importlib, sys, ecr_ray\n"
        "for m in pkgutil.walk_packages(ecr_ray.__path__, 'ecr_ray.'):\n"
        f"    if m.name not in {own}: importlib.import_module(m.name)\n"
        "loaded = {'vllm', 'deepspeed', 'torch'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_ray_data_llm_takes_the_arguments_we_pass():
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    wanted = {
        "model_source", "engine_kwargs", "batch_size", "concurrency", "max_concurrent_batches", "max_pending_requests",
        "should_continue_on_error", "log_engine_metrics", "placement_group_config", "chat_template_stage",
        "tokenize_stage", "detokenize_stage", "runtime_env",
    }  # fmt: skip
    assert wanted <= set(vLLMEngineProcessorConfig.model_fields)
    assert {"config", "preprocess", "postprocess", "preprocess_map_kwargs", "postprocess_map_kwargs"} <= set(
        inspect.signature(build_processor).parameters
    )


def test_vllm_takes_the_arguments_we_pass():
    from vllm import SamplingParams
    from vllm.v1.metrics.loggers import StatLoggerBase

    wanted = {"temperature", "max_tokens", "allowed_token_ids", "logprob_token_ids", "detokenize"}
    assert wanted <= set(inspect.signature(SamplingParams).parameters)
    assert list(inspect.signature(StatLoggerBase.record).parameters)[1:] == [
        "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx",
    ]  # fmt: skip


def test_the_prefix_cache_reporter_is_known_to_vllm():
    from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories

    assert "PrefixCacheReporter" in [factory.__name__ for factory in load_stat_logger_plugin_factories()]


def test_trl_takes_the_arguments_we_pass():
    from trl import SFTConfig, SFTTrainer, pack_dataset

    wanted = {
        "max_length", "packing", "eval_packing", "dataset_kwargs", "deepspeed", "use_cpu", "ddp_backend",
        "warmup_steps", "eval_strategy", "save_strategy", "metric_for_best_model", "save_total_limit",
        "include_num_input_tokens_seen", "pad_to_multiple_of",
    }  # fmt: skip
    assert wanted <= set(inspect.signature(SFTConfig).parameters)
    trainer = {"model", "args", "train_dataset", "eval_dataset", "processing_class", "callbacks"}
    assert trainer <= set(inspect.signature(SFTTrainer).parameters)
    assert list(inspect.signature(pack_dataset).parameters)[:3] == ["dataset", "seq_length", "strategy"]


def test_ray_train_takes_the_arguments_we_pass():
    from ray.train import FailureConfig, RunConfig, ScalingConfig, get_preemption_info
    from ray.train.torch import TorchTrainer

    wanted = {"train_loop_config", "scaling_config", "torch_config", "run_config"}
    assert wanted <= set(inspect.signature(TorchTrainer).parameters)
    assert {"num_workers", "use_gpu", "resources_per_worker"} <= set(inspect.signature(ScalingConfig).parameters)
    assert {"name", "storage_path", "failure_config"} <= set(inspect.signature(RunConfig).parameters)
    assert {"max_failures", "controller_failure_limit"} <= set(inspect.signature(FailureConfig).parameters)
    assert not inspect.signature(get_preemption_info).parameters


def test_ray_tune_and_optuna_take_the_arguments_we_pass():
    import optuna
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.optuna import OptunaSearch

    def takes(call, *wanted):
        assert set(wanted) <= set(inspect.signature(call).parameters), call

    takes(
        tune.TuneConfig,
        *("metric", "mode", "num_samples", "max_concurrent_trials", "time_budget_s", "search_alg", "scheduler"),
        "trial_dirname_creator",
    )
    takes(tune.RunConfig, "name", "storage_path", "callbacks", "verbose")
    takes(tune.Tuner.restore, "path", "trainable", "resume_unfinished", "resume_errored")
    takes(AsyncHyperBandScheduler, "time_attr", "max_t", "grace_period", "reduction_factor")
    takes(OptunaSearch, "sampler", "metric", "mode")
    takes(optuna.samplers.TPESampler, "seed", "multivariate", "constant_liar", "warn_independent_sampling")
    takes(optuna.importance.get_param_importances, "study", "evaluator")
    assert {"after_report"} <= set(dir(TuneReportCallback))


def test_ray_data_keeps_order_for_training_as_we_ask():
    from ray.data import ExecutionOptions
    from ray.train import DataConfig

    assert {"datasets_to_split", "execution_options"} <= set(inspect.signature(DataConfig).parameters)
    assert "preserve_order" in inspect.signature(ExecutionOptions).parameters


def test_deepspeed_gives_and_takes_whole_weights_and_moments():
    from deepspeed import utils

    names = {
        "safe_get_full_fp32_param": ["param"],
        "safe_get_full_optimizer_state": ["param", "optim_state_key"],
        "safe_set_full_optimizer_state": ["param", "value", "optim_state_key"],
    }
    for name, wanted in names.items():
        assert list(inspect.signature(getattr(utils, name)).parameters)[: len(wanted)] == wanted
