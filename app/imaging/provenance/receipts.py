"""Signed receipts of rankings, which anybody with the public key can check.

A receipt is `{"object": "receipt", "claims": {...}, "algorithm", "certificate", "signature"}`. The signature, in
base64, is of the claims in canonical JSON (RFC 8785), by the first key of the PEM chain `certificate`. ECDSA signatures
are DER (RFC 3279), RSA ones PSS with salts as long as the hash. Needs the extra `c2pa`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.imaging.provenance.certificates import INSTALL, CertificateError, SigningPair

OBJECT, VERSION = "receipt", 1

MAX_BYTES = 8 * 2**20
"""Maximum size of a receipt that is read."""


@dataclass(frozen=True, slots=True)
class ReceiptReport:
    """What a check of a receipt found; `problems` say what does not hold.

    `invalid`: the signature or the order does not hold. `valid`: both hold, the signer is not known to the reader.
    `trusted`: signed by a known key. `claims` are what it says. `signer` is what the known certificate says, else what
    the receipt says of itself.
    """

    state: Literal["invalid", "valid", "trusted"]
    signer: str | None
    problems: tuple[str, ...]
    claims: Mapping[str, Any]

    def candidate_of(self, picture: bytes) -> int | None:
        """The index of the candidate whose file this is; None if the receipt has none."""
        digest = hashlib.sha256(picture).hexdigest()
        if self.state == "invalid":
            return None
        return next((c["index"] for c in self.claims["candidates"] if c.get("file_sha256") == digest), None)


def sign_receipt(claims: Mapping[str, Any], pair: SigningPair) -> dict[str, Any]:
    """The receipt of claims, which are JSON values; integers are below 2^53."""
    signature = base64.b64encode(_sign(_canonical(claims), pair)).decode("ascii")
    certificate = pair.chain.decode("ascii")
    return {
        "object": OBJECT,
        "claims": dict(claims),
        "algorithm": pair.algorithm,
        "certificate": certificate,
        "signature": signature,
    }


def is_receipt(data: bytes) -> bool:
    """Whether a file is meant as a receipt: a JSON object."""
    return data[:64].lstrip().startswith(b"{")


def check_receipt(data: bytes, trusted: bytes | None = None) -> ReceiptReport:
    """Check signature and order of a receipt, in JSON.

    `trusted` are PEM certificates or public keys whose keys are known. Raises CertificateError if it is no receipt, or
    if the library is not installed.
    """
    document = _parsed(data)
    claims = document["claims"]
    known = _known_keys(trusted) if trusted is not None else {}
    problems = list(order_problems(claims))
    try:
        key, signer = _signer(document["certificate"].encode())
        _verify(key, base64.b64decode(document["signature"], validate=True), _canonical(claims), document["algorithm"])
    except (_Forged, binascii.Error, ValueError) as error:
        return ReceiptReport("invalid", None, (f"the signature does not hold ({error})", *problems), claims)
    state: Literal["invalid", "valid", "trusted"] = "valid"
    if _encoded(key) in known:
        state, signer = "trusted", known[_encoded(key)]
    return ReceiptReport("invalid" if problems else state, signer, tuple(problems), claims)


def order_problems(claims: Mapping[str, Any]) -> Sequence[str]:
    """What contradicts that the returned candidates are the best by their scores.

    Ranks follow the scores, ties the index. With `diversity`, a balance or an ensemble the returned set is chosen
    otherwise, so only its order is checked.
    """
    try:
        candidates = claims["candidates"]
        if [c["index"] for c in candidates] != [*range(len(candidates))]:
            return ["the candidates are not numbered from 0"]
        ranked = sorted((c for c in candidates if c["rank"] is not None), key=lambda c: c["rank"])
        problems = [] if [c["rank"] for c in ranked] == [*range(1, len(ranked) + 1)] else ["the ranks are not 1 to n"]
        competed = _competed(claims)
        problems += [f"candidate {c['index']} has a rank, although it is excluded" for c in ranked if c not in competed]
        if ranked != sorted(ranked, key=_place):
            problems.append("the ranks do not follow the scores")
        chosen = claims["ranking"]["diversity"], claims["ranking"]["scorers"], claims["ranking"].get("balance")
        if not any(chosen):
            best = sorted(competed, key=_place)[: claims["n"]]
            problems += [f"candidate {c['index']} has no rank, although it is better" for c in best if c not in ranked]
        return problems
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return ["the claims are not those of a receipt"]


def _competed(claims: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Candidates that could have been returned.

    They are not pruned, lost, excluded, or below a minimum of the ranking. Pruned ones compete if one of them was
    returned.
    """
    ranking, candidates = claims["ranking"], claims["candidates"]
    least, likely = ranking["min_score"], ranking.get("min_probability")
    pruned = any(c["rank"] is not None and c["pruned_at_step"] for c in candidates)
    return [
        c
        for c in candidates
        if c["score"] is not None
        and not c["failed"]
        and (c["pruned_at_step"] is None or pruned)
        and not set(c["flags"]) & set(ranking["veto"])
        and not (claims["safety"] == "veto" and c["flagged"])
        and (least is None or c["score"] >= least)
        and (likely is None or (c["probability"] is not None and c["probability"] >= likely))
    ]


def _place(candidate: Mapping[str, Any]) -> tuple[float, int]:
    score = candidate["score"]
    return (float("inf") if score is None else -float(score), int(candidate["index"]))


class _Forged(Exception):
    """The signature does not belong to the claims."""


def _parsed(data: bytes) -> dict[str, Any]:
    wrong = "the file is no receipt: save the JSON of /v1/generations/{id}/receipt as it is"
    if len(data) > MAX_BYTES:
        raise CertificateError(f"the receipt has more than {MAX_BYTES} bytes: check the file")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise CertificateError(wrong) from None
    texts = ("algorithm", "certificate", "signature")
    fits = isinstance(document, dict) and document.get("object") == OBJECT and isinstance(document.get("claims"), dict)
    if not fits or not all(isinstance(document.get(name), str) for name in texts):
        raise CertificateError(wrong)
    return dict(document)


def _canonical(claims: Mapping[str, Any]) -> bytes:
    try:
        import rfc8785
    except ImportError:
        raise CertificateError(f"receipts need a library that is not installed: {INSTALL}") from None
    try:
        canonical: bytes = rfc8785.dumps(dict(claims))
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise _Forged(str(error)) from None
    return canonical


def _sign(data: bytes, pair: SigningPair) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pair.key, None)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(_hash(pair.algorithm)))
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.sign(data, _padding(), _hash(pair.algorithm))


def _verify(key: Any, signature: bytes, data: bytes, algorithm: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        if isinstance(key, ed25519.Ed25519PublicKey) and algorithm == "ed25519":
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm.startswith("es"):
            key.verify(signature, data, ec.ECDSA(_hash(algorithm)))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm.startswith("ps"):
            key.verify(signature, data, _padding(), _hash(algorithm))
        else:
            raise _Forged("the key is not of this algorithm")
    except InvalidSignature:
        raise _Forged("the claims were changed") from None


def _hash(algorithm: str) -> Any:
    from cryptography.hazmat.primitives import hashes

    known = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
    if algorithm[2:] not in known:
        raise _Forged("the algorithm is unknown")
    return known[algorithm[2:]]


def _padding() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


def _signer(chain: bytes) -> tuple[Any, str | None]:
    """The public key of the first certificate, and its organisation."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        return leaf.public_key(), _organisation(leaf)
    except (UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _Forged(str(error)) from None


def _organisation(certificate: Any) -> str | None:
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else None


def _known_keys(pem: bytes) -> dict[bytes, str | None]:
    """The keys of PEM certificates, with their organisations, or a PEM public key.

    Raises CertificateError.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if b"CERTIFICATE" in pem:
            return {_encoded(each.public_key()): _organisation(each) for each in x509.load_pem_x509_certificates(pem)}
        return {_encoded(load_pem_public_key(pem)): None}
    except ValueError:
        raise CertificateError("the file of trusted keys holds no PEM certificate and no PEM public key") from None


def _encoded(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded


def public_key(pair: SigningPair) -> str:
    """The public key of a pair, PEM."""
    from cryptography.hazmat.primitives import serialization

    key, _ = _signer(pair.chain)
    pem: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")
