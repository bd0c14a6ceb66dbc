"""Which task is whose, where devices of one run have different ones (``vq-tasks``): device d has the (d mod T)-th."""

from functools import lru_cache

from fl.config.settings import Settings, SettingsError
from fl.workloads.world import dataset

MOST = 8


@lru_cache(maxsize=64)
def of(settings: Settings) -> tuple[Settings, ...]:
    """The settings of each task, which differ in the data set; those given where there is one task only.

    Raises:
        SettingsError: too few or too many are named, or not all are classes of texts.
    """
    if not settings.vq_tasks:
        return (settings,)
    own = named(settings)
    if len(own) > MOST:
        raise SettingsError(f"vq-tasks = '{settings.vq_tasks}' names {len(own)} tasks, devices can have {MOST}")
    for name, one in own.items():
        data = dataset(one)
        if not data.text or data.target_train is not None or data.span_train is not None:
            raise SettingsError(
                f"vq-tasks: devices learn classes of texts, and {name} holds none: choose e.g. 'sst2,cola'"
            )
    return tuple(own.values())


def named(settings: Settings) -> dict[str, Settings]:
    """The settings of each task by the name of its data set.

    Raises:
        SettingsError: fewer than two are named, or they would change what they share.
    """
    names = [name.strip() for name in settings.vq_tasks.split(",") if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise SettingsError(f"vq-tasks = '{settings.vq_tasks}': name two or more different text sets, e.g. 'cola,mrpc'")
    if settings.vq_width or settings.vq_late or settings.vq_pretrain != "none":
        raise SettingsError(
            "tasks share what crosses as it is, and start from the preset: set vq-width = 0, and leave vq-late and "
            "vq-pretrain out"
        )
    return {name: settings.model_copy(update={"dataset": name, "vq_tasks": ""}) for name in names}


def number(settings: Settings, device: int) -> int:
    """Which of the tasks is a device's."""
    return device % len(of(settings))


def task(settings: Settings, device: int) -> Settings:
    """The settings of a device's task."""
    return of(settings)[number(settings, device)]
