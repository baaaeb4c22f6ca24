"""A conversation becomes a prompt: template, token ids, and the views of its images at their places (facts 4.4, 6)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import CheckpointError, ImageError, OptionError, PromptError
from pocketvlm.processor.chat import ChatTemplate, protect_messages
from pocketvlm.processor.guard import Guard, Piece, strings_in
from pocketvlm.processor.image import Patches, prepare_image
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image
from pocketvlm.processor.messages import Conversation, ImagePart, read_messages, read_tools
from pocketvlm.processor.sizes import ImageOptions, Layout, describe, plan_layout
from pocketvlm.processor.tokenizer import Tokenizer
from pocketvlm.types import ImageInfo, Prompt, View

if TYPE_CHECKING:
    from pocketvlm.backends.ops import Place

# The control token before each role. In a template that writes another one, only images leave marks.
_TURN = "<|im_start|>"
_RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "enable_thinking")


@dataclass(frozen=True, slots=True)
class _Picture:
    """One decoded and cut image."""

    width: int
    height: int
    layout: Layout
    options: ImageOptions
    views: tuple[Patches, ...]


class Processor:
    """Everything that stands between messages and the model, for one checkpoint. Safe to share between threads."""

    def __init__(
        self,
        config: ProcessorConfig,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        image_token_id: int | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        """image_token_id: the model's own idea of the placeholder id; raises CheckpointError if the two differ."""
        self.config = config
        self.tokenizer = tokenizer
        self.template = template
        self.limits = limits or MediaLimits()
        if image_token_id is not None and image_token_id != tokenizer.special.image:
            raise CheckpointError(
                f"config.json: image_token_id={image_token_id}, but the tokenizer's "
                f"{tokenizer.spelling('image_token')} is {tokenizer.special.image}"
            )

    @classmethod
    def from_checkpoint_files(
        cls,
        config: ProcessorConfig | Mapping[str, Any],
        tokenizer_file: str | Path,
        tokenizer_config: Mapping[str, Any],
        chat_template: str | None = None,
        image_token_id: int | None = None,
        limits: MediaLimits | None = None,
        place: Place | None = None,
    ) -> Processor:
        """From preprocessor_config.json (read or parsed), the path of tokenizer.json, and the content of
        tokenizer_config.json and chat_template.jinja (None: the template inside tokenizer_config). place: where the
        vocabulary is kept for the next start (None: nowhere). Raises CheckpointError.
        """
        return cls(
            config if isinstance(config, ProcessorConfig) else ProcessorConfig.from_dict(config),
            Tokenizer.from_files(tokenizer_file, tokenizer_config, place),
            ChatTemplate.load(chat_template, tokenizer_config),
            image_token_id,
            limits,
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
        downsample_mode: str | None = None,
        max_slice_nums: int | None = None,
        slice_mode: bool | None = None,
        use_image_id: bool | None = None,
        scale_resolution: int | None = None,
        limits: MediaLimits | None = None,
    ) -> Prompt:
        """Token ids and views of a conversation (messages.read_messages says what may be in it).

        None leaves an option to the checkpoint, or to the template for enable_thinking; an image part's own options
        win over these. continue_final_message leaves the last message open, so that the answer goes on in it.
        Raises PromptError, ImageError or OptionError.
        """
        started = time.perf_counter()
        request = {
            "downsample_mode": downsample_mode,
            "max_slice_nums": max_slice_nums,
            "slice_mode": slice_mode,
            "use_image_id": use_image_id,
            "scale_resolution": scale_resolution,
        }
        limits = limits or self.limits
        conversation = read_messages(messages)
        if len(conversation.images) > limits.max_images:
            raise ImageError(
                f"{len(conversation.images)} images are more than the limit of {limits.max_images}: "
                "send fewer or raise max_images"
            )
        ImageOptions.resolve(self.config, request)  # refuse a bad option even when there is no image
        options = [
            ImageOptions.resolve(self.config, request, part.options, where=part.where) for part in conversation.images
        ]
        variables = _variables(template_kwargs, enable_thinking)
        if continue_final_message and add_generation_prompt:
            add_generation_prompt = False
        pieces = self._render(conversation, tools, variables, add_generation_prompt, continue_final_message)
        self._check_placeholders(pieces, len(conversation.images))

        fetching, visual = 0.0, 0
        pictures = []
        for part, chosen in zip(conversation.images, options, strict=True):
            before = time.perf_counter()
            image = _load(part, limits)
            fetching += time.perf_counter() - before
            layout = plan_layout(image.width, image.height, chosen)
            visual += describe(image.width, image.height, layout, chosen, 0).vision_tokens
            if visual > limits.max_visual_tokens:
                raise ImageError(
                    f"{part.where}: {visual} visual tokens up to here are more than the limit of "
                    f"{limits.max_visual_tokens}: send fewer or smaller images, or a smaller max_slice_nums"
                )
            views = prepare_image(image, chosen, self.config)
            pictures.append(_Picture(image.width, image.height, layout, chosen, views))
        ids, placed, images, marks = self._assemble(pieces, pictures)
        return Prompt(
            ids=np.array(ids, dtype=np.int32),
            views=tuple(placed),
            images=tuple(images),
            text="".join(piece.text for piece in pieces),
            decode_seconds=fetching,
            preprocess_seconds=time.perf_counter() - started - fetching,
            marks=tuple(marks),
        )

    def _render(
        self,
        conversation: Conversation,
        tools: Any,
        variables: Mapping[str, Any],
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> list[Piece]:
        """The template's output, its control tokens apart from text that users wrote."""
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

    def _check_placeholders(self, pieces: list[Piece], images: int) -> None:
        spelling = self.tokenizer.spelling("image_token")
        found = sum(piece.control and piece.text == spelling for piece in pieces)
        if found != images:
            raise PromptError(f"the chat template wrote {found} image placeholders for {images} images")

    def _assemble(
        self, pieces: list[Piece], pictures: list[_Picture]
    ) -> tuple[list[int], list[View], list[ImageInfo], list[int]]:
        """Ids of all pieces, each image placeholder replaced by its block (facts 4.4); and Prompt.marks."""
        ids: list[int] = []
        views: list[View] = []
        images: list[ImageInfo] = []
        marks: list[int] = []
        placeholder = self.tokenizer.spelling("image_token")
        before = ""
        for index, piece in enumerate(pieces):
            if not piece.control:
                ids += self.tokenizer.encode_plain(piece.text)
            elif piece.text != placeholder:
                if piece.text == _TURN:
                    role = pieces[index + 1].text if index + 1 < len(pieces) else ""
                    if ids and marks[-1:] != [len(ids)] and (role.startswith("assistant") or before == "system"):
                        marks.append(len(ids))
                    before = role.partition("\n")[0]
                ids.append(self.tokenizer.control_ids[piece.text])
            else:
                picture = pictures[len(images)]
                start = len(ids)
                self._image_block(picture, len(images), ids, views)
                images.append(
                    describe(picture.width, picture.height, picture.layout, picture.options, len(ids) - start)
                )
                marks.append(len(ids))
        counted = ids.count(self.tokenizer.special.image)
        if counted != sum(view.tokens for view in views):
            raise AssertionError(f"{counted} placeholders for {sum(view.tokens for view in views)} view tokens")
        return ids, views, images, marks

    def _image_block(self, picture: _Picture, index: int, ids: list[int], views: list[View]) -> None:
        special = self.tokenizer.special
        if picture.options.use_image_id:
            ids += [special.image_id_start, *self.tokenizer.encode_plain(str(index)), special.image_id_end]
        columns = picture.layout.grid[1] if picture.layout.grid else 0
        for number, view in enumerate(picture.views):
            if number > 1 and (number - 1) % columns == 0:
                ids += self.tokenizer.encode_plain("\n")
            ids.append(special.image_start if number == 0 else special.slice_start)
            views.append(view.at(len(ids)))
            ids += [special.image] * view.tokens
            ids.append(special.image_end if number == 0 else special.slice_end)


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


def _load(part: ImagePart, limits: MediaLimits) -> Any:
    try:
        return load_image(part.source, limits, is_base64=part.base64)
    except ImageError as error:
        raise ImageError(f"{part.where}: {error}") from error.__cause__


def _leave_open(message: dict[str, Any], guard: Guard) -> None:
    """Put the end mark behind the last text of the final message; the blank shows whether the template trims."""
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
