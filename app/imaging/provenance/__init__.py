"""Signed origin of image files: C2PA manifests, through c2pa-python.

Needs the extra `c2pa`; it is imported only where it is used. The functions are synchronous and take tens of
milliseconds.
"""

from app.imaging.provenance.certificates import CertificateError, SigningPair, development_pair
from app.imaging.provenance.manifests import Origin, Parent, Report, State, TrustList, read, sign

__all__ = [
    "CertificateError",
    "Origin",
    "Parent",
    "Report",
    "SigningPair",
    "State",
    "TrustList",
    "development_pair",
    "read",
    "sign",
]
