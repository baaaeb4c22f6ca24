"""The command `pocketvlm tokens` prints what images, videos and a prompt cost before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pocketvlm.cli import options
from pocketvlm.cli.inputs import read_images, read_prompt, read_videos
from pocketvlm.cli.typed import as_typed
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions, named_adapters
from pocketvlm.options.request import over_defaults
from pocketvlm.types import DownsampleMode

if TYPE_CHECKING:
    from pocketvlm.processor.processor import Processor
    from pocketvlm.types import ImageInfo, Prompt, VideoInfo

EPILOG = """
Examples:

  pocketvlm tokens -i page.png
  pocketvlm tokens -v clip.mp4 --stack-frames 3
  pocketvlm tokens nano -i a.jpg -i b.png -p "What differs?" --max-slice-nums 4 --json

Each option can be set as POCKETVLM_TOKENS_<OPTION>.
"""

MODES: tuple[DownsampleMode, ...] = ("16x", "4x")


@options.takes(
    *options.PROMPT_OPTIONS,
    *options.MEDIA_OPTIONS,
    *options.ADAPTER_OPTIONS,
    *options.load_options("revision", "mmproj"),
)
def tokens(
    model: Annotated[str, options.model_argument("TOKENS")] = options.DEFAULT_MODEL,
    image: options.Image = None,
    video: options.Video = None,
    prompt: options.Prompt = None,
    system: options.System = None,
    as_json: Annotated[bool, options.json_option("TOKENS")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Count the tokens of images, videos and a prompt, in 16x and in 4x, without running the model."""
    if not image and not video and not prompt:
        raise OptionError("there is nothing to count: give images or a prompt, as in pocketvlm tokens -i page.png")
    images, videos = read_images(image or []), read_videos(video or [])
    text = read_prompt(prompt, image or [], piped=False)
    adapters = options.given(values, LoadOptions).get("adapters")
    options.one_adapter(adapters)

    from pocketvlm.api import processor_for
    from pocketvlm.api.adapters import adapter_options
    from pocketvlm.checkpoint.hub import resolve
    from pocketvlm.checkpoint.reader import open_checkpoint
    from pocketvlm.cli.terminal import Activity
    from pocketvlm.engine.fitting import ways_to_fit
    from pocketvlm.processor.messages import as_messages

    chosen = options.processor_options(values)
    with Activity(quiet) as activity:
        activity.say(f"reading {model}")
        mmproj = values["mmproj"]
        path = resolve(model, values["revision"], activity.downloading(model), weights=False, mmproj=mmproj)
        checkpoint = open_checkpoint(path, weights=False, mmproj=mmproj)
        processor = processor_for(checkpoint)
        for name, source in named_adapters(adapters, model).items():
            chosen = over_defaults(adapter_options(name, source, checkpoint.processor), chosen)
        activity.say(f"reading {len(images)} images and {len(videos)} videos")
        processed = processor(as_messages(text, images, system, videos), **chosen)
    report = count(model, [*(image or []), *(f"video:{name}" for name in videos)], processed, processor, chosen)
    report["context"] = context = checkpoint.model.text.max_position_embeddings
    if len(processed.ids) >= context:
        report["to_fit"] = ways_to_fit(processed, context - 1)
    if as_json:
        import json

        print(json.dumps(report, ensure_ascii=False))
    else:
        print(_table(report))


def count(
    model: str, names: Sequence[str], prompt: Prompt, processor: Processor, chosen: dict[str, Any]
) -> dict[str, Any]:
    """Tokens of each image and video and of the whole prompt, in both modes.

    The other mode is computed from sizes alone. names: of images, and of videos with "video:" before them.
    """
    from dataclasses import replace

    from pocketvlm.options.media import IMAGE_OPTIONS, VIDEO_OPTIONS, ImageOptions, VideoOptions
    from pocketvlm.processor.sampling import plan_groups
    from pocketvlm.processor.sizes import plan_image

    image_options = {name: value for name, value in chosen.items() if name in IMAGE_OPTIONS}
    resolved = ImageOptions.resolve(processor.config, image_options)
    plans = {
        mode: [
            plan_image(image.width, image.height, replace(resolved, downsample_mode=mode), index)
            for index, image in enumerate(prompt.images)
        ]
        for mode in MODES
    }
    video_options = {name: value for name, value in chosen.items() if name in (*IMAGE_OPTIONS, *VIDEO_OPTIONS)}
    watched = VideoOptions.resolve(processor.config, video_options).image
    videos = []
    for index, video in enumerate(prompt.videos):
        tag = 2 + len(str(index)) if watched.use_image_id else 0
        modes: dict[str, Any] = {}
        for mode in MODES:
            options = replace(watched, downsample_mode=mode)
            pictured = plan_groups(video.width, video.height, video.pictures, options)
            modes[mode] = {
                "vision_tokens": sum(frames.vision_tokens for frames in pictured),
                "tokens": sum(frames.tokens for frames in pictured) + tag,
            }
        videos.append(modes)
    text_tokens = len(prompt.ids) - sum(image.tokens for image in prompt.images)
    text_tokens -= sum(video.tokens for video in prompt.videos)
    stills = [name for name in names if name[:6].lower() != "video:"]
    clips = [name[6:] for name in names if name[:6].lower() == "video:"]
    return {
        "model": model,
        "downsample_mode": resolved.downsample_mode,
        "images": [
            _image(name, image, {mode: plans[mode][index] for mode in MODES})
            for index, (name, image) in enumerate(zip(stills, prompt.images, strict=True))
        ],
        "videos": [_video(name, video, modes) for name, video, modes in zip(clips, prompt.videos, videos, strict=True)],
        "text_tokens": text_tokens,
        "prompt_tokens": {
            mode: text_tokens + sum(plan.tokens for plan in plans[mode]) + sum(each[mode]["tokens"] for each in videos)
            for mode in MODES
        },
    }


def _image(name: str, image: ImageInfo, plans: dict[str, ImageInfo]) -> dict[str, Any]:
    return {
        "image": name,
        "width": image.width,
        "height": image.height,
        "grid": image.grid,
        **{
            mode: {
                "overview_size": plan.overview_size,
                "slice_size": plan.slice_size,
                "vision_tokens": plan.vision_tokens,
                "tokens": plan.tokens,
            }
            for mode, plan in plans.items()
        },
    }


def _video(name: str, video: VideoInfo, modes: dict[str, Any]) -> dict[str, Any]:
    return {
        "video": name,
        "width": video.width,
        "height": video.height,
        "fps": video.fps,
        "seconds": video.seconds,
        "frames": video.frames,
        "main_frames": video.main_frames,
        "pictures": [list(frames) for frames in video.pictures],
        **modes,
    }


def _table(report: dict[str, Any]) -> str:
    """Columns for people: sizes as width x height in the chosen mode, the grid as rows x columns."""
    from pocketvlm.cli.terminal import printable

    mode = report["downsample_mode"]
    lines: list[str] = []
    if report["images"]:
        head = ["image", "size", "grid", "overview", "slice", *MODES]
        rows = [
            [
                printable(_short(image["image"])),
                _by((image["width"], image["height"])),
                _by(image["grid"]),
                _by(image[mode]["overview_size"]),
                _by(image[mode]["slice_size"]),
                *(str(image[each]["tokens"]) for each in MODES),
            ]
            for image in report["images"]
        ]
        lines += _columns(head, rows)
    if report["videos"]:
        head = ["video", "size", "seconds", "frames", "taken", "composites", *MODES]
        rows = [
            [
                printable(_short(video["video"])),
                _by((video["width"], video["height"])),
                "-" if video["seconds"] is None else f"{video['seconds']:.1f}",
                str(video["frames"]),
                str(video["main_frames"]),
                str(len(video["pictures"]) - video["main_frames"]),
                *(str(video[each]["tokens"]) for each in MODES),
            ]
            for video in report["videos"]
        ]
        lines += _columns(head, rows)
    totals = " · ".join(f"{report['prompt_tokens'][each]} tokens in {each}" for each in MODES)
    lines.append(f"prompt: {totals} ({report['text_tokens']} of them text), context {report['context']}")
    if "to_fit" in report:
        lines.append(as_typed(f"too long for the context: {report['to_fit']}"))
    return "\n".join(lines)


def _columns(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table with an empty line after it: the first column aligned left, numbers aligned right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]))
    return [*lines, ""]


def _by(pair: tuple[int, int] | None) -> str:
    return "-" if pair is None else f"{pair[0]}x{pair[1]}"


def _short(name: str, length: int = 32) -> str:
    """A path's last part, or the beginning of a URL or data URI."""
    last = name if "://" in name or name.startswith("data:") else name.rstrip("/").rsplit("/", 1)[-1]
    return last if len(last) <= length else f"{last[: length - 1]}…"
