#!/bin/sh
# trim.sh VENV: makes an installation smaller by what no node uses, and compiles what every process imports.
set -eu
cd "$1"/lib/python3*/site-packages
# tests, headers (nothing is compiled in the image), Ray's Java and what needs packages that are not installed
find . -type d \( -name tests -o -name test \) -not -path './numpy/*' -prune -exec rm -rf {} +
find . -type d -name include -prune -exec rm -rf {} +
find . -type f \( -name '*.map' -o -name '*.a' -o -name '*.jar' \) -delete
find torch/bin -type f -not -name torch_shm_manager -delete
rm -rf ray/rllib ray/llm tensorboard_data_server/bin
# descriptions of Google's APIs: those that Ray's launcher calls remain
find googleapiclient/discovery_cache/documents -type f -not -name 'compute.v1.json' -not -name 'iam.v1.json' \
    -not -name 'cloudresourcemanager.v1.json' -not -name 'tpu.v2alpha.json' -delete
# symbols for debuggers; not in *.libs, whose libraries were changed after linking and do not load any more after strip
find . -type f \( -name '*.so' -o -name '*.so.*' \) -size +1M -not -path './*.libs/*' -not -path './nvidia/*' \
    -exec strip --strip-unneeded {} +
# Byte code of what is imported: the image's user cannot write it. Also shows that nothing needed was removed.
cd / && DS_ACCELERATOR=cpu "$1"/bin/python - <<'PYTHON'
import importlib
import pkgutil

import s2v_ray

modules = [m.name for m in pkgutil.walk_packages(s2v_ray.__path__, "s2v_ray.") if not m.name.endswith("__main__")]
modules += ["boto3", "deepspeed", "googleapiclient.discovery", "torch.utils.tensorboard", "torch.distributed"]
modules += ["ray.data", "ray.serve", "ray.tune", "ray.train.torch", "ray.scripts.scripts", "ray.autoscaler.v2.monitor"]
modules += ["ray.dashboard.dashboard", "ray.dashboard.agent", "ray.job_submission", "ray.dashboard.modules.job.job_head"]
for name in modules:
    importlib.import_module(name)
PYTHON
