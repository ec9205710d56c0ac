"""Phantoms: images with layers, vessels and lesions whose exact place is known, for tests, demos and checks.

They are made of analytic shapes and seeded noise; the same arguments give the same bytes. ``difficulty`` from 0 to 1
makes lesions smaller and fainter and the noise stronger.
"""

from .brain_mri import brain_mri_phantom
from .fundus import fundus_phantom
from .liver_ct import liver_ct_phantom
from .oct import oct_phantom
from .phantom import Phantom
from .spectralis import write_vol
from .write import (
    write_adam_layout,
    write_idrid_layout,
    write_image_labels_layout,
    write_phantoms,
    write_retouch_layout,
    write_spectralis_layout,
)

__all__ = [
    "Phantom",
    "brain_mri_phantom",
    "fundus_phantom",
    "liver_ct_phantom",
    "oct_phantom",
    "write_adam_layout",
    "write_idrid_layout",
    "write_image_labels_layout",
    "write_phantoms",
    "write_retouch_layout",
    "write_spectralis_layout",
    "write_vol",
]
