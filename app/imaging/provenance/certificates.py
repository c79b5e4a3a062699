"""Key and certificate that sign manifests: read, checked, or made for development."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

INSTALL = "install the extra: pip install 'frontrunner[c2pa]'"

DEVELOPMENT = "Frontrunner development, not trusted"
"""Organisation in the certificates of `development_pair`."""

DEVELOPMENT_DAYS = 365

_SIGNING_USES = ("1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.62558.2.1")
"""Extended key usages that C2PA accepts.

In order: e-mail protection, document signing, C2PA claim signing.
"""


class CertificateError(ValueError):
    """The pair cannot sign manifests; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class SigningPair:
    """A private key and its certificate chain, both PEM.

    `algorithm` is C2PA's name of the signature. `expires` is the end of the first certificate, `serial` its number.
    """

    chain: bytes
    key: bytes
    algorithm: str
    expires: datetime
    serial: int

    @classmethod
    def configured(cls, certificate: Path | None, key: Path | None, *, required: bool) -> SigningPair | None:
        """The pair of two settings; None if neither is set and none is `required`.

        Raises CertificateError.
        """
        if certificate is not None and key is not None:
            return cls.load(certificate, key)
        if required or certificate is not None or key is not None:
            raise CertificateError(
                "C2PA needs a certificate and its key: set FRONTRUNNER_C2PA_CERTIFICATE and FRONTRUNNER_C2PA_KEY"
            )
        return None

    @classmethod
    def load(cls, certificate: Path, key: Path) -> SigningPair:
        """Read and check both files. Raises CertificateError."""
        try:
            return cls.parse(certificate.read_bytes(), key.read_bytes())
        except OSError as error:
            name = "certificate" if str(error.filename) == str(certificate) else "key"
            raise CertificateError(f"the C2PA {name} cannot be read ({error.strerror}): check its path") from None

    @classmethod
    def parse(cls, chain: bytes, key: bytes) -> SigningPair:
        """Check PEM data. Raises CertificateError."""
        try:
            from cryptography import x509
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
        except ImportError:
            raise CertificateError(f"C2PA needs a library that is not installed: {INSTALL}") from None
        try:
            leaf = x509.load_pem_x509_certificates(chain)[0]
        except ValueError:
            raise CertificateError("the C2PA certificate is no PEM chain: put the signer's certificate first") from None
        try:
            private = load_pem_private_key(key, None)
        except (ValueError, TypeError):
            raise CertificateError("the C2PA key is no unencrypted PEM private key: convert it to PKCS #8") from None
        if _public_bytes(private.public_key()) != _public_bytes(leaf.public_key()):
            raise CertificateError("the C2PA key does not belong to the first certificate: set a matching pair")
        _check_use(leaf)
        pair = cls(chain, key, _algorithm(private), leaf.not_valid_after_utc, leaf.serial_number)
        pair.check(datetime.now(UTC))
        return pair

    def check(self, now: datetime) -> None:
        """Raise CertificateError if the certificate has expired."""
        if now >= self.expires:
            raise CertificateError(f"the C2PA certificate expired on {self.expires:%Y-%m-%d}: set a valid one")


def development_pair() -> tuple[bytes, bytes, bytes]:
    """A chain, its key, and the root to trust, all PEM; valid for a year.

    No reader trusts it by itself. Its organisation says that it is for development.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("root", root_key, "root", root_key)
    leaf = _certificate("signer", key, "root", root_key)
    root_pem, leaf_pem = (one.public_bytes(serialization.Encoding.PEM) for one in (root, leaf))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return leaf_pem + root_pem, private, root_pem


def _certificate(
    name: str,
    key: CertificateIssuerPrivateKeyTypes,
    issuer: str,
    issuer_key: CertificateIssuerPrivateKeyTypes,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(common: str) -> x509.Name:
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, DEVELOPMENT)
        return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common)])

    signs_certificates, now = name == issuer, datetime.now(UTC)
    use = x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=DEVELOPMENT_DAYS))
        .add_extension(x509.BasicConstraints(signs_certificates, 0 if signs_certificates else None), critical=True)
        .add_extension(use, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not signs_certificates:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(issuer_key, hashes.SHA256())


def _check_use(leaf: x509.Certificate) -> None:
    from cryptography import x509

    try:
        uses = {use.dotted_string for use in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value}
    except x509.ExtensionNotFound:
        uses = set()
    if not uses.intersection(_SIGNING_USES):
        raise CertificateError(
            "the C2PA certificate has no extended key usage for signing: request one for document signing or e-mail "
            "protection"
        )


def _algorithm(private: object) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey):
        known = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
        if private.curve.name in known:
            return known[private.curve.name]
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    elif isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    raise CertificateError("the C2PA key has an unsupported type: use P-256, P-384, P-521, Ed25519 or RSA")


def _public_bytes(key: object) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
