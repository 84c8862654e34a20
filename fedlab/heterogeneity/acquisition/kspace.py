"""Artefacts of magnetic resonance that arise line by line in k-space: patient motion, ghosts, spikes.

Rows of k-space (along the height) are the phase-encoding lines, acquired one after another from the lowest to the
highest spatial frequency. Channels are treated one by one. Scanners show magnitudes.
"""

import numpy as np
from numpy.typing import NDArray

from fedlab.core.typing import Floats, Ints
from fedlab.heterogeneity.acquisition.optics import Array, Pixels, ScanContext

MOVES = 3  # times that a patient moves during a scan
SHOTS = (2, 3, 4)  # interleaves of a scanner with ghosts


def motion(x: Pixels, distance: float, scan: ScanContext) -> Pixels:
    """Rigid motion of the patient between the lines of k-space: X'(k) = X_s(k), s the pose held during line k.

    distance: largest shift along an axis in pixels of 28, and also the path, by rotation, of a point at 14 pixels from
    the centre. A case moves MOVES times, at random lines; the pose at the centre of k-space is that of the mask.
    Shaw 2020, doi:10.1109/TMI.2020.2972547.
    """
    if not distance:
        return x
    shown = np.empty_like(x)
    dimensions, scale = x.ndim - 2, max(x.shape[2:]) / 28
    axes = dimensions * (dimensions - 1) // 2  # of rotation
    for image, moved, rng in zip(x, shown, scan.case_rngs("motion"), strict=True):
        begins = np.sort(rng.random(MOVES))
        unit = rng.uniform(-1, 1, (MOVES + 1, dimensions + axes))
        shifts, angles = unit[:, :dimensions] * distance * scale, unit[:, dimensions:] * distance / 14
        held = poses_of_lines(x.shape[2], begins)
        shifts[held[0]], angles[held[0]] = 0, 0
        moved[...] = composed(rigid_copies(image, shifts, angles), held)
    return shown


def poses_of_lines(size: int, begins: Floats) -> Ints:
    """Return the pose held during each line, (size,) in the order of numpy.fft; `begins`: sorted shares of the scan."""
    when = (np.fft.fftfreq(size) * size + size // 2 + 0.5) / size  # share of the scan at the middle of the line
    return np.searchsorted(begins, when)


def composed(copies: list[Pixels], held: Ints) -> Pixels:
    """Magnitude of the image whose k-space lines come from copies (channels, height, ...), `held` says which."""
    lines = np.zeros(copies[0].shape, np.complex128)
    for pose in np.unique(held):
        taken = held == pose
        lines[:, taken] = np.fft.fft(copies[pose], axis=1)[:, taken]
    return np.abs(np.fft.ifft(lines, axis=1)).astype(np.float32)


def rigid_copies(image: Pixels, shifts: Floats, angles: Floats) -> list[Pixels]:
    """Return copies of an image (channels, *space), rotated about its centre, then shifted; edges are mirrored.

    shifts: (copies, dimensions), in pixels. angles: (copies, 0, 1 or 3), in radians, in the plane of the axes (0, 1),
    in volumes also (0, 2) and (1, 2). Interpolated by cubic splines; a copy that is not moved is the image itself.
    """
    from scipy import ndimage

    splines = [ndimage.spline_filter(one.astype(np.float64), order=3, mode="mirror") for one in image]
    centre = (np.array(image.shape[1:]) - 1) / 2
    copies = []
    for shift, angle in zip(shifts, angles, strict=True):
        if not shift.any() and not angle.any():
            copies.append(image)
            continue
        back = rotation(angle).T  # from the copy to the image
        start = centre - back @ (centre + shift)
        moved = [ndimage.affine_transform(one, back, start, mode="mirror", prefilter=False) for one in splines]
        copies.append(np.clip(np.stack(moved), 0, 1).astype(np.float32))
    return copies


def rotation(angles: Floats) -> Array:
    """Return the rotation matrix of one angle (2, 2), or of three angles (3, 3)."""
    if len(angles) < 1:
        return np.eye(1)
    planes = [(0, 1)] if len(angles) == 1 else [(0, 1), (0, 2), (1, 2)]
    turn = np.eye(2 if len(angles) == 1 else 3)
    for (i, j), angle in zip(planes, angles, strict=True):
        one = np.eye(len(turn))
        one[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = one @ turn
    return turn


def ghosting(x: Pixels, intensity: float, scan: ScanContext) -> Pixels:
    """Ghosts of an interleaved acquisition: one of P interleaves has another phase, P = 2, 3 or 4 by site.

    intensity: brightness of each ghost, 0 to 0.5, relative to the undisturbed object. Buonocore and Gao 1997,
    doi:10.1002/mrm.1910380114; for periodic motion, Wood and Henkelman 1985, doi:10.1118/1.595782.
    """
    return ghosts(x, intensity, int(scan.site_rng("ghosting").choice(SHOTS))) if intensity else x


def ghosts(x: Pixels, intensity: float, shots: int) -> Pixels:
    """Magnitude of x with P - 1 ghosts, displaced by multiples of height / P along the height, P = `shots`.

    Every P-th line is multiplied by e^(i phi), whose Fourier series gives the object 1 + c and each ghost c,
    with c = (e^(i phi) - 1) / P, |c| = 2 sin(phi / 2) / P = `intensity`, at most 2 / P. The energy,
    sum of x^2, is kept.
    """
    size = x.shape[2]
    line = np.rint(np.fft.fftfreq(size) * size).astype(int)
    phase = np.where(line % shots == 0, 2 * np.arcsin(intensity * shots / 2), 0)
    wave = np.fft.fft(np.eye(size))
    operator = (wave.conj().T * np.exp(1j * phase)) @ wave / size  # along the height
    rows = x.reshape(*x.shape[:3], -1)
    magnitude = np.hypot(operator.real.astype(np.float32) @ rows, operator.imag.astype(np.float32) @ rows)
    return magnitude.reshape(x.shape)


def spikes(x: Pixels, ratio: float, scan: ScanContext) -> Pixels:
    """Spike in one point of k-space: stripes |x + A e^(i (2 pi k r / n + theta))| across the image.

    ratio: of the spike to the centre of k-space, so that A = ratio * mean of x. Every case has its own frequency k
    (not 0) and phase theta. Stadler 2007, doi:10.1007/s00330-006-0470-4.
    """
    if not ratio:
        return x
    shown = np.empty_like(x)
    for image, striped, rng in zip(x, shown, scan.case_rngs("spikes"), strict=True):
        amplitude = ratio * image.mean(axis=tuple(range(1, image.ndim)), keepdims=True)
        striped[...] = np.abs(image + amplitude * plane_wave(x.shape[2:], rng))
    return shown


def plane_wave(size: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.complex128]:
    """Return e^(i (2 pi k r / n + theta)), shape `size`, of a random point k of k-space, not its centre."""
    points = int(np.prod(size))
    k = np.unravel_index(int(rng.integers(1, points)) if points > 1 else 0, size)
    turns = sum(each * grid / n for each, grid, n in zip(k, np.ogrid[tuple(map(slice, size))], size, strict=True))
    return np.exp(2j * np.pi * (turns + rng.random()))
