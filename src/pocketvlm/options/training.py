"""`TrainingOptions` defines the options of `pocketvlm finetune` that are not those of media."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pocketvlm.errors import OptionError
from pocketvlm.options.option import Option, validate

Method = Literal["lora", "full"]
ComputeDtype = Literal["auto", "bf16", "f32"]

DEFAULT_FEATURE_CACHE = 20 << 30


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How a checkpoint is trained; sizes are bytes.

    A step reads batch * accumulate samples in each process. Its loss is the mean over all answer tokens of the step,
    however the samples are split. Learning rate: a linear warm-up, then half a cosine down to zero.
    """

    group: ClassVar[str] = "Training"

    method: Annotated[
        Method, Option("lora: low-rank updates, an adapter. full: all weights, a bf16 checkpoint.", chat=None)
    ] = "lora"
    rank: Annotated[int, Option("Rank of the updates (lora).", low=1, high=1024, chat=None)] = 16
    alpha: Annotated[float, Option("Updates are scaled by alpha / rank (lora).", above=0, high=65536, chat=None)] = 32.0
    dropout: Annotated[
        float, Option("Share of inputs of the updates that is zeroed in training (lora).", low=0, below=1, chat=None)
    ] = 0.0
    targets: Annotated[
        str,
        Option(
            "auto: all matrices of the language model's layers. attention: those of attention and DeltaNet. vision: "
            "those of the vision tower and mergers. all: auto and vision. Or a regular expression of module names. "
            "Several: separated by commas.",
            metavar="NAMES",
            wanted="auto, attention, vision, all or a regular expression",
            chat=None,
        ),
    ] = "auto"
    epochs: Annotated[float, Option("Passes over the data.", above=0, high=10_000, chat=None)] = 3.0
    lr: Annotated[float, Option("Largest learning rate.", above=0, high=10, chat=None)] = 2e-4
    batch: Annotated[int, Option("Samples that run together in each process.", low=1, high=4096, chat=None)] = 1
    accumulate: Annotated[int, Option("Batches of each process in a step.", low=1, high=65536, chat=None)] = 8
    max_length: Annotated[
        int, Option("Largest number of tokens of a sample; longer ones are refused.", low=2, chat=None)
    ] = 4096
    warmup: Annotated[
        float, Option("Share of the steps in which the learning rate grows.", low=0, below=1, chat=None)
    ] = 0.05
    weight_decay: Annotated[float, Option("Decoupled weight decay of AdamW.", low=0, high=1, chat=None)] = 0.0
    max_grad_norm: Annotated[float, Option("Longer gradients are scaled down to this norm.", above=0, chat=None)] = 1.0
    seed: Annotated[int, Option("Of the order of data, new matrices and dropout.", low=0, high=2**31, chat=None)] = 0
    eval_every: Annotated[
        int | None,
        Option("Steps between evaluations on the data of --eval.", low=1, default="those of an epoch", chat=None),
    ] = None
    save_every: Annotated[
        int | None,
        Option("Steps between checkpoints that a run can resume from.", low=1, default="those of an epoch", chat=None),
    ] = None
    dtype: Annotated[
        ComputeDtype,
        Option("Numbers of the frozen weights and the arithmetic. auto: bf16 on cuda, f32 on cpu.", chat=None),
    ] = "auto"
    feature_cache: Annotated[
        int,
        Option("Disk space for image features while the vision tower is frozen; 0: none.", low=0, size=True, chat=None),
    ] = DEFAULT_FEATURE_CACHE

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range, naming option, value and what is allowed."""
        validate(self)
        if not self.targets.strip():
            raise OptionError("targets='' names nothing: give auto, attention, vision, all or a regular expression")
