"""Keys that sign manifests: one made on this machine at the first use, or the user's own."""

import datetime
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen_video.files import cache_root

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name

KEY, CHAIN, ROOT = "key.pem", "chain.pem", "root.pem"
# Without a timestamp of an authority a signature is good as long as its certificate.
YEARS = 20
CURVES = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}


def missing(error: ImportError) -> ValueError:
    """What to install."""
    return ValueError(f"provenance needs {error.name}: pip install 'imagen-video[provenance]'")


@dataclass(frozen=True)
class Signer:
    """A private key (PKCS#8) and its certificate, with those that vouch for it after it, in PEM;
    `algorithm` as C2PA calls it."""

    key: bytes = field(repr=False)
    certificates: bytes = field(repr=False)
    algorithm: bytes

    @classmethod
    def local(cls, folder: str | Path | None = None) -> "Signer":
        """The key of this machine in `folder` (default: "c2pa" in the cache), made if it is not
        there. However many processes begin at once, all get the same one."""
        folder = Path(folder) if folder else cache_root() / "c2pa"
        if not (folder / KEY).is_file():
            _make(folder)
        return cls.of_files(folder / KEY, folder / CHAIN)

    @classmethod
    def of_files(cls, key: str | Path, certificates: str | Path) -> "Signer":
        """ValueError for what is no key without a password, and for certificates of none."""
        try:
            from cryptography.exceptions import UnsupportedAlgorithm
            from cryptography.hazmat.primitives.serialization import load_pem_private_key
            from cryptography.x509 import load_pem_x509_certificates
        except ImportError as error:
            raise missing(error) from error
        try:
            private = load_pem_private_key(Path(key).read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{key} is no private key in PEM without a password") from error
        try:
            load_pem_x509_certificates(Path(certificates).read_bytes())
        except ValueError as error:
            raise ValueError(f"{certificates} holds no certificates in PEM") from error
        return cls(_pem(private), Path(certificates).read_bytes(), _algorithm(private, key))


def _algorithm(private: Any, path: str | Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in CURVES:
        return CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return b"ps256"
    raise ValueError(f"C2PA signs with EC (P-256 to P-521), Ed25519 and RSA keys, not with {path}")


def _make(folder: Path) -> None:
    """Write a new key beside `folder` and rename it there, if nobody has in the meantime."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        new = Path(made) / "new"
        new.mkdir(mode=0o700)
        for name, text in _new_pair().items():
            with open(new / name, "xb", opener=_private) as file:
                file.write(text)
        try:
            os.rename(new, folder)
        except OSError as error:
            if not (folder / KEY).is_file():
                raise ValueError(
                    f"cannot keep a key in {folder}: {error.strerror}; name a new or empty folder"
                ) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _new_pair() -> dict[str, bytes]:
    """A key, and its certificate by a root that signs nothing else: its own key is forgotten."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509 import Name, NameAttribute
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise missing(error) from error
    which = f"local key {secrets.token_hex(4)}"
    organisation = NameAttribute(NameOID.ORGANIZATION_NAME, "imagen-video")
    subject, issuer = (
        Name([organisation, NameAttribute(NameOID.COMMON_NAME, name)])
        for name in (which, f"root of {which}")
    )
    key, root_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _issue(issuer, root_key, issuer, root_key)
    leaf = _issue(subject, key, issuer, root_key)
    first, second = (one.public_bytes(Encoding.PEM) for one in (leaf, root))
    return {KEY: _pem(key), CHAIN: first + second, ROOT: second}


def _issue(subject: "Name", key: Any, issuer: "Name", issuer_key: Any) -> "Certificate":
    """The certificate of a root for itself, or by it of a key that signs as C2PA demands it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID

    root = subject == issuer
    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    never = "content_commitment key_encipherment data_encipherment key_agreement encipher_only"
    uses = dict.fromkeys([*never.split(), "decipher_only"], False)
    usage = x509.KeyUsage(digital_signature=not root, key_cert_sign=root, crl_sign=root, **uses)
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(root, 0 if root else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(by, critical=False)
    )
    if not root:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, SHA256())


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
