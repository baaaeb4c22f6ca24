"""The first bytes of a file say what it is: an image, a video, a PDF file, or a format that is not read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Allow-list. Each decoder here is in wide use and under constant fuzzing, and it states the size of the image before
# it decodes, so the limits hold. Left out: ICO and ICNS (the size of the image inside is not known before it is
# decoded), JPEG 2000 (a decoder with many memory faults), PPM and other text formats (slow loops in Python), PSD and
# EPS (layers and programs, not pixels), raw files of cameras (Pillow reads the thumbnail instead of the image).
READ = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIC = "HEIC"
# Bytes that `recognize` wants to see.
HEAD = 4096

Group = Literal["image", "video", "pdf", "other"]

_SAVE = "save it as PNG or JPEG"
# Image formats that are not read, with advice; formats that are not listed get the advice `_SAVE`.
_WAYS = {
    "SVG": "it is a drawing without pixels: render it to PNG in the size that it shall be seen in",
    "EPS or PostScript": "it is a program that draws: render it to PNG",
    "ICO": "save the size of the icon that matters as PNG",
    "camera raw": "develop it, or save the camera's preview as JPEG",
    "DICOM": "export the image as PNG",
}
# Other file formats, and what the user can do instead.
_OTHERS = {
    "web page": "this is a web page (HTML): give the address of the image itself",
    "Git LFS pointer": "this is a pointer of Git LFS, not the file itself: run git lfs pull",
    "ZIP": "this is a ZIP archive or an office document: unpack it, or export its pages as images",
    "gzip": "this is a gzip archive: unpack it",
    "audio": "this is a sound file, and only images and videos are read",
}


@dataclass(frozen=True, slots=True)
class FileType:
    """A recognized format. name: as people call it."""

    name: str
    group: Group

    @property
    def is_read(self) -> bool:
        """Whether images of this format are decoded."""
        return self.name in READ or self.name == HEIC


_SIGNATURES: tuple[tuple[int, bytes, str, Group], ...] = (
    (0, b"\xff\xd8\xff", "JPEG", "image"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG", "image"),
    (0, b"GIF87a", "GIF", "image"),
    (0, b"GIF89a", "GIF", "image"),
    (8, b"WEBPVP8", "WEBP", "image"),
    (8, b"CR\x02", "camera raw", "image"),
    (0, b"FUJIFILMCCD-RAW", "camera raw", "image"),
    (0, b"IIU\0", "camera raw", "image"),
    (0, b"IIRO", "camera raw", "image"),
    (0, b"II*\0", "TIFF", "image"),
    (0, b"MM\0*", "TIFF", "image"),
    (0, b"II+\0", "TIFF", "image"),
    (0, b"MM\0+", "TIFF", "image"),
    (0, b"\0\0\1\0", "ICO", "image"),
    (0, b"\0\0\2\0", "ICO", "image"),
    (0, b"icns", "ICNS", "image"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", "image"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", "image"),
    (0, b"\xff\x0a", "JPEG XL", "image"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", "image"),
    (0, b"8BPS", "PSD", "image"),
    (0, b"gimp xcf", "XCF", "image"),
    (0, b"%!PS", "EPS or PostScript", "image"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS or PostScript", "image"),
    (0, b"qoif", "QOI", "image"),
    (0, b"DDS ", "DDS", "image"),
    (0, b"v/1\x01", "OpenEXR", "image"),
    (0, b"#?RADIANCE", "Radiance HDR", "image"),
    (0, b"AT&TFORM", "DjVu", "image"),
    (128, b"DICM", "DICOM", "image"),
    (0, b"%PDF-", "PDF", "pdf"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM", "video"),
    (8, b"AVI ", "AVI", "video"),
    (0, b"FLV\x01", "FLV", "video"),
    (0, b"OggS", "Ogg", "video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF or WMV", "video"),
    (0, b"\0\0\1\xba", "MPEG", "video"),
    (0, b"DKIF", "IVF", "video"),
    (4, b"moov", "QuickTime", "video"),
    (4, b"mdat", "QuickTime", "video"),
    (8, b"WAVE", "audio", "other"),
    (0, b"ID3", "audio", "other"),
    (0, b"fLaC", "audio", "other"),
    (0, b"PK\x03\x04", "ZIP", "other"),
    (0, b"\x1f\x8b\x08", "gzip", "other"),
    (0, b"version https://git-lfs", "Git LFS pointer", "other"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf"}


def recognize(head: bytes) -> FileType | None:
    """The format of a file by its first HEAD bytes, or None if it is unknown.

    Sequences of images in AVIF and HEIF containers count as images: their first or main image is what they show.
    """
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return FileType("BMP", "image")
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return FileType("PPM", "image")
    for at, magic, name, group in _SIGNATURES:
        if head.startswith(magic, at):
            return FileType(name, group)
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return FileType("MPEG transport stream", "video")
    return _by_markup(head)


def _by_brand(head: bytes) -> FileType:
    """The brands of an ISO container (its box `ftyp`) tell images from videos."""
    major, end = head[8:12], min(int.from_bytes(head[:4], "big"), len(head))
    brands = {major, *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if major == b"crx ":
        return FileType("camera raw", "image")
    # A video may list brands of images too, but its own brand comes first.
    if major in _AVIF_BRANDS or (major in _HEIF_BRANDS and brands & _AVIF_BRANDS):
        return FileType("AVIF", "image")
    if major in _HEIC_BRANDS | _HEIF_BRANDS:
        return FileType(HEIC, "image")
    return FileType("MP4 or QuickTime", "video")


def _by_markup(head: bytes) -> FileType | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return FileType("web page", "other")
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text:
        return FileType("SVG", "image")
    return None


def no_picture(head: bytes) -> str:
    """Why a file cannot be read as an image, and what to do instead."""
    found = recognize(head)
    if found is None:
        return f"not an image in a format we read ({', '.join((*READ, HEIC))}); it starts with {head[:12]!r}"
    if found.is_read:
        return f"damaged or incomplete {found.name} file"
    if found.group == "image":
        return f"images in the format {found.name} are not read: {_WAYS.get(found.name, _SAVE)}"
    if found.group == "video":
        return f"not an image: it looks like a video: give it as one ({found.name})"
    if found.group == "pdf":
        return "not an image: it is a PDF file: give its pages as images"
    return f"not an image: {_OTHERS[found.name]}"


def still(head: bytes) -> FileType | None:
    """The format of a still image, or None. GIF and WebP give None, because they may be animations."""
    found = recognize(head)
    if found is None or found.group != "image" or found.name in ("GIF", "WEBP"):
        return None
    before_pixels, pixels, _ = head.partition(b"IDAT")
    if found.name == "PNG" and (not pixels or b"acTL" in before_pixels):
        return None
    return found


def no_video(head: bytes) -> str | None:
    """Why a file cannot be read as a video, by its first bytes; empty if it may be one."""
    picture, found = still(head), recognize(head)
    if picture is not None:
        return f"it is an image ({picture.name}), not a video: give it as an image"
    if found is not None and found.group == "pdf":
        return "not a video: it is a PDF file: give its pages as images"
    return f"not a video: {_OTHERS[found.name]}" if found is not None and found.name in _OTHERS else None
