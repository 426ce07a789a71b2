#!/bin/bash
# A job on its own Ray cluster inside a SLURM allocation:
#
#   sbatch slurm_ray_start.sh jobs/score.py --profile cluster       run a job, exit with its code
#   sbatch slurm_ray_start.sh                                       a cluster to attach to
#   bash slurm_ray_start.sh --help                                  the options in between
#
# Whatever stands in an #SBATCH line here, the same option of sbatch overrides:
#   sbatch --nodes=4 --gpus-per-node=8 --time=12:00:00 slurm_ray_start.sh ...
#
#SBATCH --job-name=ecr_ray
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --output=slurm-%j.out
# Two minutes before the time limit: save, and be started over (the output is continued).
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# What a lost node means is decided by --on-node-loss, not by SLURM.
#SBATCH --no-kill

cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}" || exit 1
python=${ECR_PYTHON:-.venv/bin/python}
if ! "$python" -c 'import ecr_ray' 2>/dev/null; then
  echo "error: $PWD/$python cannot import ecr_ray: submit from the checkout after \`make install\`, or set ECR_PYTHON" >&2
  exit 1
fi
# exec: SLURM sends its signals to this process.
exec "$python" -m ecr_ray.cluster.slurm "$@"
