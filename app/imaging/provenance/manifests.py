"""C2PA manifests of image files: their signed origin, and whether it still holds.

Specification: C2PA 2.x, <https://spec.c2pa.org>. Nothing is fetched: neither remote manifests nor revocation lists.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from app.imaging.encoding import MEDIA_TYPES
from app.imaging.provenance.certificates import INSTALL, CertificateError, SigningPair

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's digital source type of media that a model made."""

ASSERTION = "frontrunner.generation"
"""Label of the assertion with the parameters of a generation."""

State: TypeAlias = Literal["none", "invalid", "valid", "trusted"]
"""What a check found.

`none`: no manifest. `valid`: whole, by a signer that the reader does not know. `trusted`: whole, by a known one.
"""

_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_WRITING = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False, **_OFFLINE["verify"]}}
_PARENT = "parent"
_UNTRUSTED = "signingCredential.untrusted"


@dataclass(frozen=True, slots=True)
class Parent:
    """A file that another one was made from; `media_type` as in `MEDIA_TYPES`."""

    data: bytes
    media_type: str
    title: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What a manifest says.

    `generator` is (name, version); `parameters` are JSON values. With a `parent` the file is an edit of it by the
    action `action`, such as `c2pa.resized`; else it is a creation.
    """

    title: str
    generator: tuple[str, str]
    parameters: Mapping[str, Any]
    parent: Parent | None = None
    action: str = "c2pa.edited"


@dataclass(frozen=True, slots=True)
class TrustList:
    """Certificates that the reader trusts.

    `anchors` are those of authorities, PEM; empty for none. Of the pair `own`, the first certificate is trusted, and
    not what else its authority has issued.
    """

    anchors: bytes = b""
    own: SigningPair | None = None

    @classmethod
    def configured(cls, path: Path | None, own: SigningPair | None) -> TrustList:
        """The certificates of a file, and the own one. Raises CertificateError."""
        try:
            known = path.read_bytes() if path is not None else b""
        except OSError as error:
            raise CertificateError(
                f"the trusted certificates cannot be read ({error.strerror}): check the path"
            ) from None
        return cls(known, own)


@dataclass(frozen=True, slots=True)
class Report:
    """What a file's manifest says, and whether the file is still as it was signed.

    `problems` are C2PA's codes of failed checks. `parameters` are those of `Origin`, if the file has them.
    `ingredients` are the titles of the files that it was made from.
    """

    state: State
    signer: str | None = None
    generator: str | None = None
    title: str | None = None
    generated: bool = False
    actions: tuple[str, ...] = ()
    parameters: Mapping[str, Any] | None = None
    ingredients: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def sign(data: bytes, media_type: str, origin: Origin, pair: SigningPair) -> bytes:
    """Return the file with a signed manifest; pixels stay as they are.

    Raises CertificateError if the library is missing or refuses the pair.
    """
    c2pa = _library()
    manifest = {
        "claim_generator_info": [{"name": origin.generator[0], "version": origin.generator[1]}],
        "title": origin.title,
        "format": media_type,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": _actions(origin)}},
            {"label": ASSERTION, "data": dict(origin.parameters)},
        ],
    }
    signed = io.BytesIO()
    info = c2pa.C2paSignerInfo(pair.algorithm.encode(), pair.chain, pair.key, None)
    try:
        with (
            c2pa.Context.from_dict(_WRITING) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest), context=context) as builder,
        ):
            if origin.parent is not None:
                parent = {"title": origin.parent.title, "relationship": "parentOf", "label": _PARENT}
                builder.add_ingredient(json.dumps(parent), origin.parent.media_type, io.BytesIO(origin.parent.data))
            builder.sign(signer, media_type, io.BytesIO(data), signed)
    except c2pa.C2paError as error:
        raise CertificateError(f"the file could not be signed: {error}") from error
    return signed.getvalue()


def _actions(origin: Origin) -> list[dict[str, Any]]:
    agent = {"name": origin.generator[0], "version": origin.generator[1]}
    if origin.parent is None:
        return [{"action": "c2pa.created", "digitalSourceType": GENERATED, "softwareAgent": agent}]
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}
    return [opened, {"action": origin.action, "softwareAgent": agent, "digitalSourceType": GENERATED}]


def read(data: bytes, trust: TrustList = TrustList()) -> Report:
    """Read and check the manifest of a PNG, JPEG or WebP file.

    A file of another type, or one without a manifest, has the state `none`. Raises CertificateError if the library is
    missing.
    """
    c2pa = _library()
    media_type = _media_type(data)
    if media_type is None:
        return Report("none")
    report, _ = _check(c2pa, media_type, data, trust.anchors)
    if report.state == "valid" and trust.own is not None:
        # The library trusts an authority only, whose serial numbers are unique.
        own, serial = _check(c2pa, media_type, data, trust.own.chain)
        return own if serial == str(trust.own.serial) else report
    return report


def _check(c2pa: Any, media_type: str, data: bytes, anchors: bytes) -> tuple[Report, str | None]:
    """The report with these authorities, and the serial number of the signer."""
    settings: dict[str, Any] = dict(_OFFLINE)
    if anchors:
        settings["trust"] = {"trust_anchors": anchors.decode("ascii", "replace")}
    try:
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(media_type, io.BytesIO(data), context=context) as reader,
        ):
            store = json.loads(reader.json())
            return _report(store, str(reader.get_validation_state()).lower()), _serial(store)
    except c2pa.C2paError.ManifestNotFound:
        return Report("none"), None
    except c2pa.C2paError as error:
        return Report("invalid", problems=(f"unreadable: {str(error)[:200]}",)), None


def _media_type(data: bytes) -> str | None:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return MEDIA_TYPES["png"]
    if data[:3] == b"\xff\xd8\xff":
        return MEDIA_TYPES["jpeg"]
    return MEDIA_TYPES["webp"] if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _active(store: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = store.get("manifests", {}).get(store.get("active_manifest"), {})
    return found


def _serial(store: Mapping[str, Any]) -> str | None:
    return (_active(store).get("signature_info") or {}).get("cert_serial_number")


def _report(store: Mapping[str, Any], state: str) -> Report:
    manifest = _active(store)
    assertions = {a["label"]: a.get("data") or {} for a in manifest.get("assertions", ())}
    actions: Sequence[Mapping[str, Any]] = next(
        (data.get("actions", ()) for label, data in assertions.items() if label.startswith("c2pa.actions")), ()
    )
    parameters = assertions.get(ASSERTION)
    generators = [g for g in manifest.get("claim_generator_info", ()) if g.get("name")]
    codes = [p.get("code", "") for p in store.get("validation_status", ())]
    return Report(
        state="trusted" if state == "trusted" else "valid" if state == "valid" else "invalid",
        signer=(manifest.get("signature_info") or {}).get("issuer"),
        generator=" ".join(filter(None, (generators[0]["name"], generators[0].get("version")))) if generators else None,
        title=manifest.get("title"),
        generated=any(action.get("digitalSourceType") == GENERATED for action in actions),
        actions=tuple(str(action.get("action")) for action in actions),
        parameters=parameters if isinstance(parameters, Mapping) else None,
        ingredients=tuple(str(one.get("title")) for one in manifest.get("ingredients", ())),
        problems=tuple(dict.fromkeys(code for code in codes if code != _UNTRUSTED)),
    )


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise CertificateError(f"C2PA needs a library that is not installed: {INSTALL}") from None
    return c2pa
