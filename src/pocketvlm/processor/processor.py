"""`Processor` turns a conversation into a `Prompt`: token ids, and the views of its images (docs/model.md 4.4, 6)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import CheckpointError, OptionError, PromptError
from pocketvlm.families import MINICPMV4_6, Family, Markers
from pocketvlm.options.media import MEDIA_OPTIONS, ImageOptions
from pocketvlm.options.option import refuse_unknown
from pocketvlm.options.request import MediaKeywords
from pocketvlm.processor.chat import ChatTemplate, protect_messages
from pocketvlm.processor.clip import Clip, Progress
from pocketvlm.processor.guard import Guard, Segment, strings_in
from pocketvlm.processor.image import Patches
from pocketvlm.processor.image_cache import ImageCache, PreparedImage
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media_reader import MediaReader
from pocketvlm.processor.messages import Conversation, read_messages, read_tools
from pocketvlm.processor.pending_image import Pending, PendingImage
from pocketvlm.processor.sizes import Layout
from pocketvlm.processor.system import place_system_messages
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.types import ImageInfo, PendingView, Prompt, RotaryPositions, TokenizerSource, VideoInfo, View

if TYPE_CHECKING:
    from pocketvlm.backends.backend import CacheLocation

# The control token before each role. If a template writes another one, only media items set cache breakpoints.
_TURN = "<|im_start|>"
_RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "enable_thinking")


class Processor:
    """Everything between messages and the model, for one checkpoint. Safe to share between threads."""

    def __init__(
        self,
        config: ProcessorConfig,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        image_token_id: int | None = None,
        limits: MediaLimits | None = None,
        family: Family = MINICPMV4_6,
        marker_ids: Sequence[tuple[str, int]] = (),
    ) -> None:
        """image_token_id, marker_ids: the model's own ids of the placeholder and, by field of `Markers`, of tokens
        around views; raises CheckpointError if they differ from the tokenizer's.
        """
        self.config = config
        self.family = family
        self.tokenizer = tokenizer
        self.template = template
        self.limits = limits or MediaLimits()
        if image_token_id is not None and image_token_id != tokenizer.special.image:
            raise CheckpointError(
                f"config.json: image_token_id={image_token_id}, but the tokenizer's "
                f"{tokenizer.spelling('image_token')} is {tokenizer.special.image}"
            )
        self._markers = None if family.positions is None else _markers(tokenizer, marker_ids)

    @classmethod
    def from_checkpoint_files(
        cls,
        config: ProcessorConfig | Mapping[str, Any],
        tokenizer: str | Path | TokenizerSource,
        tokenizer_config: Mapping[str, Any],
        chat_template: str | None = None,
        image_token_id: int | None = None,
        limits: MediaLimits | None = None,
        cache: CacheLocation | None = None,
        family: Family = MINICPMV4_6,
        marker_ids: Sequence[tuple[str, int]] = (),
    ) -> Processor:
        """From preprocessor_config.json (read or parsed), tokenizer.json (its path or content), and the content of
        tokenizer_config.json and chat_template.jinja (None: the template inside tokenizer_config). cache: where the
        vocabulary is cached for the next start (None: nowhere). Raises CheckpointError.
        """
        return cls(
            config if isinstance(config, ProcessorConfig) else ProcessorConfig.from_dict(config),
            Tokenizer.from_files(tokenizer, tokenizer_config, cache),
            ChatTemplate.load(chat_template, tokenizer_config),
            image_token_id,
            limits,
            family,
            marker_ids,
        )

    def __call__(
        self,
        messages: Any,
        *,
        tools: Any = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        limits: MediaLimits | None = None,
        progress: Progress | None = None,
        image_cache: ImageCache | None = None,
        pending: Pending | None = None,
        **options: Unpack[MediaKeywords],
    ) -> Prompt:
        """Token ids and views of a conversation (messages.read_messages says what may be in it).

        options: of all images and videos (`options/media.py`); a part's own options win over these, and None leaves an
        option to the checkpoint, or to the template for enable_thinking. Videos have max_slice_nums 1 and no image id
        unless asked otherwise (of some families never, see `Family`).
        continue_final_message leaves the last message open, so that the answer continues it. progress("watch", done,
        total) is called on another thread for each frame or composite of a video that was prepared. image_cache:
        images that were cut for earlier prompts. pending: images given as paths and URIs become pending views, whose
        pixels are decoded when they are loaded; "size" reads headers alone, "digest" files. Raises PromptError,
        ImageError, VideoError or OptionError.
        """
        started = time.perf_counter()
        refuse_unknown(options, MEDIA_OPTIONS)
        limits = limits or self.limits
        conversation = read_messages(messages)
        if not self.template.takes_system_anywhere:
            conversation = replace(conversation, messages=place_system_messages(conversation.messages))
        media = MediaReader(self.config, limits, options, image_cache, pending)
        media.check(conversation)
        variables = _variables(template_kwargs, enable_thinking)
        if continue_final_message and add_generation_prompt:
            add_generation_prompt = False
        segments = self._render(conversation, tools, variables, add_generation_prompt, continue_final_message)
        self._check_placeholders(segments, conversation)
        images, videos = media.read(conversation)
        for clip in videos:
            clip.progress = progress
        return self._assemble(segments, images, videos, media, started)

    def render(
        self,
        messages: Any,
        *,
        tools: Any = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> list[Segment]:
        """The chat template's output for messages without media. Raises PromptError."""
        variables = _variables(None, enable_thinking)
        return self._render(read_messages(messages), tools, variables, add_generation_prompt, False)

    def _render(
        self,
        conversation: Conversation,
        tools: Any,
        variables: Mapping[str, Any],
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> list[Segment]:
        """The template's output, split into control tokens and text."""
        definitions = read_tools(tools)
        everything = [conversation.messages, definitions, dict(variables), self.template.source]
        guard = Guard(self.tokenizer.spellings, strings_in(everything))
        messages = protect_messages(conversation.messages, guard)
        if continue_final_message:
            _leave_open(messages[-1], guard)
        text = self.template.render(
            messages,
            tools=guard.protect_all(definitions),
            add_generation_prompt=add_generation_prompt,
            **guard.protect_all(dict(variables)),
        )
        if continue_final_message:
            text = _cut_open(text, guard)
        return guard.split(text)

    def _check_placeholders(self, segments: list[Segment], conversation: Conversation) -> None:
        for kind, parts in (("image", conversation.images), ("video", conversation.videos)):
            if kind == "video" and self.tokenizer.special.video is None:
                if parts:
                    raise PromptError(f"{parts[0].where}: the tokenizer of this checkpoint has no token for video")
                continue
            spelling = self.tokenizer.spelling(f"{kind}_token")
            found = sum(segment.control and segment.text == spelling for segment in segments)
            if found != len(parts):
                raise PromptError(f"the chat template wrote {found} {kind} placeholders for {len(parts)} {kind}s")

    def _assemble(
        self,
        segments: list[Segment],
        images: list[PreparedImage | PendingImage],
        clips: list[Clip],
        media: MediaReader,
        started: float,
    ) -> Prompt:
        """The prompt of all segments, each placeholder replaced by its block (docs/model.md 4.4, 4.6)."""
        ids: list[int] = []
        views: list[View | PendingView] = []
        seen: list[ImageInfo] = []
        watched: list[VideoInfo] = []
        marks: list[int] = []
        special = self.tokenizer.special
        placeholders = {self.tokenizer.spelling("image_token"): special.image}
        if special.video is not None:
            placeholders[self.tokenizer.spelling("video_token")] = special.video
        previous_role = ""
        for index, segment in enumerate(segments):
            if not segment.control:
                ids += self.tokenizer.encode_plain(segment.text)
                continue
            placeholder = placeholders.get(segment.text)
            if placeholder is None:
                if segment.text == _TURN:
                    role = segments[index + 1].text if index + 1 < len(segments) else ""
                    if ids and marks[-1:] != [len(ids)] and (role.startswith("assistant") or previous_role == "system"):
                        marks.append(len(ids))
                    previous_role = role.partition("\n")[0]
                ids.append(self.tokenizer.control_ids[segment.text])
                continue
            begin = len(ids)
            if placeholder == special.image:
                image = images[len(seen)]
                self._id_tag(image.options, len(seen), ids)
                self._block(image.views, image.layout, placeholder, ids, views)
                seen.append(image.describe(len(ids) - begin))
            else:
                clip = clips[len(watched)]
                if self.family.video_id_tag:
                    self._id_tag(clip.options.image, len(watched), ids)
                for number, group in enumerate(clip.groups):
                    self._block(clip.views(number), group.layout, placeholder, ids, views)
                watched.append(clip.describe(len(ids) - begin))
            marks.append(len(ids))
        counted = sum(ids.count(placeholder) for placeholder in placeholders.values())
        if counted != sum(view.tokens for view in views):
            raise AssertionError(f"{counted} placeholders for {sum(view.tokens for view in views)} view tokens")
        tokens = np.array(ids, dtype=np.int32)
        return Prompt(
            ids=tokens,
            views=tuple(views),
            images=tuple(seen),
            text="".join(segment.text for segment in segments),
            decode_seconds=media.decoding,
            preprocess_seconds=time.perf_counter() - started - media.decoding - media.resizing,
            marks=tuple(marks),
            resize_seconds=media.resizing,
            videos=tuple(watched),
            later=tuple(clip.seconds for clip in clips),
            positions=self._positions(tokens, views),
        )

    def _positions(self, ids: NDArray[np.int32], views: list[View | PendingView]) -> RotaryPositions | None:
        """Positions of a prompt whose views lie on canvases; None where each position is the token's index."""
        if self.family.positions is None or self._markers is None or not views:
            return None
        return self.family.positions(ids, views, self._markers)

    def _id_tag(self, options: ImageOptions, index: int, ids: list[int]) -> None:
        special = self.tokenizer.special
        if options.use_image_id:
            ids += [special.image_id_start, *self.tokenizer.encode_plain(str(index)), special.image_id_end]

    def _block(
        self,
        image_views: Sequence[Patches | PendingView],
        layout: Layout,
        placeholder: int,
        ids: list[int],
        views: list[View | PendingView],
    ) -> None:
        """The ids of one image or frame: its overview, then its slices, with a line break after each row of slices."""
        special = self.tokenizer.special
        columns = layout.grid[1] if layout.grid else 0
        for number, view in enumerate(image_views):
            if number > 1 and (number - 1) % columns == 0:
                ids += self.tokenizer.encode_plain("\n")
            ids.append(special.image_start if number == 0 else special.slice_start)
            views.append(view.at(len(ids)))
            ids += [placeholder] * view.tokens
            ids.append(special.image_end if number == 0 else special.slice_end)


def _markers(tokenizer: Tokenizer, marker_ids: Sequence[tuple[str, int]]) -> Markers:
    """The ids of the tokens around views. Raises CheckpointError where the configuration has other ids."""
    special, newline = tokenizer.special, tokenizer.encode_plain("\n")
    if len(newline) != 1:
        raise CheckpointError(f"{tokenizer.where}: a line break is {len(newline)} tokens, but this model needs one")
    markers = Markers(special.image_start, special.image_end, special.slice_start, special.slice_end, newline[0])
    for name, value in marker_ids:
        if value != getattr(markers, name):
            raise CheckpointError(
                f"config.json: {name}_id={value}, but {tokenizer.where} says {getattr(markers, name)}: the two files "
                "do not belong together"
            )
    return markers


def _variables(template_kwargs: Mapping[str, Any] | None, enable_thinking: bool | None) -> dict[str, Any]:
    if template_kwargs is not None and not isinstance(template_kwargs, Mapping):
        raise OptionError(
            f"template_kwargs={template_kwargs!r} is not supported: give a dictionary of template variables"
        )
    variables = dict(template_kwargs or {})
    for name in variables:
        if name in _RESERVED and not (name == "enable_thinking" and enable_thinking is None):
            raise OptionError(f"template_kwargs: {name!r} has its own argument")
    if enable_thinking is not None:
        variables["enable_thinking"] = enable_thinking
    given = variables.get("enable_thinking")
    if given is not None and not isinstance(given, bool):
        raise OptionError(f"enable_thinking={given!r} is not supported: give true, false or leave it out")
    return variables


def _leave_open(message: dict[str, Any], guard: Guard) -> None:
    """Put the end mark after the last text of the final message; the blank shows whether the template trims."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = f"{content}{guard.end} "
        return
    texts = [part for part in content or [] if "text" in part]
    if not texts:
        raise PromptError("continue_final_message needs text in the last message")
    texts[-1]["text"] += f"{guard.end} "


def _cut_open(text: str, guard: Guard) -> str:
    at = text.rfind(guard.end)
    if at < 0:
        raise PromptError("continue_final_message: the chat template leaves out the last message's text")
    return text[:at] if text[at + 1 : at + 2] == " " else text[:at].rstrip()
