"""3x3 convolutions by Winograd's F(2x2, 3x3), on a CPU: 4 of 9 multiply-adds.

Two outputs of a row are y = A'((G k) * (B' x)) for the four x that they see: four
products in place of six. In two dimensions that is 16 in place of 36, each of them a
product of matrices over channels, for a quarter of the pixels (Lavin & Gray 2016,
arXiv:1509.09308). Its factors are small, and its float32 error near that of a direct
convolution (docs/results/speed_winograd.json).

A map that is dilated by (d, e) is d * e maps, convolved without holes. Transforms of
large maps would leave the cache, so these go in bands of rows. What is no number spoils
the result's 2x2 tiles that see it, up to a pixel further than directly.
"""

import jax
import jax.numpy as jnp
from jax import lax

from segjax.ops.products import divisor, over_pixels

# Of Lavin & Gray's section 4.1: a row for each result.
POINTS = ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))
"""2 G: three taps at four points."""
SUMS = ((1, 1, 1, 0), (0, 1, -1, -1))
"""A': two outputs of four products."""
BAND = 2**19
"""Values of a map at a time, or two rows: those of the transforms stay in the cache."""


def convolve(x, kernel, dilation, adjoint=False):
    """Stride 1, zeros around: x[B, H, W, Ci] by kernel[3, 3, Ci, Co] -> [B, H, W, Co].

    ``adjoint`` turns the kernel about and takes its channels the other way round
    (x[..., Co] -> [..., Ci]): the input gradient, without transposing the kernel.
    """
    taps = at_points(kernel[::-1, ::-1] if adjoint else kernel)
    return convolve_taps(x, taps, dilation, adjoint)


def convolve_taps(x, taps, dilation, adjoint=False):
    """:func:`convolve` by the kernel that :func:`at_points` gave these."""
    c_out = taps[0][0].shape[0 if adjoint else 1]
    dimensions = (((1,), (int(adjoint),)), ((), ()))
    size = x.shape[1:3]
    x = _undilated(x, dilation)
    whole = x.shape[:3]
    bands = _Bands(x.shape, c_out)

    def one(x):
        x = bands.columns(x)
        products = [
            [
                lax.dot_general(v.reshape(-1, v.shape[3]), tap, dimensions)
                for v, tap in zip(_seen(rows, 2), row, strict=True)
            ]
            for rows, row in zip(_seen(x, 1), taps, strict=True)
        ]
        columns = [_combined(SUMS, row) for row in products]
        rows = [_combined(SUMS, [row[j] for row in columns]) for j in (0, 1)]
        places = len(x), x.shape[1] // 2 - 1, x.shape[2] // 2 - 1, c_out
        y = [[rows[j][i].reshape(places) for j in (0, 1)] for i in (0, 1)]
        return jnp.stack([jnp.stack(row, 3) for row in y], 2)

    x = bands.rows(x)
    if bands.number <= 1:
        y = one(x)
    else:
        y = lax.map(lambda n: one(bands.cut(x, n, 2)), jnp.arange(bands.number))
    y = y.reshape(whole[0], bands.height, whole[2] + whole[2] % 2, c_out)
    return _dilated(y[:, : whole[1], : whole[2]], dilation, size)


def filter_gradient(x, g, shape, strides, padding, dilation):
    """Stride 1, zeros around, a 3x3 kernel: for each 2x2 of ``g`` the 4x4 it saw.

    x[B, H, W, Ci], g[B, H, W, Co] -> [3, 3, Ci, Co] in float32 or wider.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x, g = _undilated(x, dilation), _undilated(g, dilation)
    bands = _Bands(x.shape, shape[3])
    x = bands.rows(x)
    g = jnp.pad(g, ((0, 0), (0, bands.spare), (0, 0), (0, 0)))

    def one(x, g):
        # A pad is stored. Without one each transform would cut the band out itself,
        # slowly: so g, too, has columns of zeros, if need be a pair too many.
        x = bands.columns(x, 2 if bands.number > 1 else 0)
        g = jnp.pad(g, ((0, 0), (0, 0), (0, x.shape[2] - 2 - g.shape[2]), (0, 0)))
        return [
            [
                over_pixels(v, u)
                for v, u in zip(_seen(rows, 2), _spread(g_rows, 2), strict=True)
            ]
            for rows, g_rows in zip(_seen(x, 1), _spread(g, 1), strict=True)
        ]

    def add(n, total):
        return jax.tree.map(jnp.add, total, one(bands.cut(x, n, 2), bands.cut(g, n, 0)))

    if bands.number <= 1:
        products = one(x, g)
    else:
        start = [[jnp.zeros(shape[2:], wide)] * 4] * 4
        products = lax.fori_loop(0, bands.number, add, start)
    transposed = tuple(zip(*POINTS, strict=True))
    columns = [_combined(transposed, row) for row in products]
    rows = [_combined(transposed, [row[j] for row in columns]) for j in range(3)]
    found = [jnp.stack([rows[j][i] for j in range(3)]) for i in range(3)]
    return jnp.stack(found) / 4


class _Bands:
    """A map [B, H, W, Ci] in bands of rows, or groups of images, of pairs of rows."""

    def __init__(self, shape, c_out):
        batch, height, width, c_in = shape
        pairs, most = (height + 1) // 2, max(BAND // (2 * width * max(c_in, c_out)), 1)
        self.high = divisor(pairs, most)
        if 2 * self.high < min(most, pairs):  # a prime, say: rather some rows too many
            self.high = -(-pairs // -(-pairs // most))
        self.per_image = -(-pairs // self.high)
        self.images = divisor(batch, most // pairs) if self.per_image == 1 else 1
        self.number = batch // self.images * self.per_image
        self.height, self.odd = 2 * self.high * self.per_image, width % 2
        self.spare = self.height - height

    def rows(self, x):
        """With the zeros above and below it."""
        return jnp.pad(x, ((0, 0), (1, 1 + self.spare), (0, 0), (0, 0)))

    def columns(self, x, more=0):
        """A band with the zeros on its left and right."""
        return jnp.pad(x, ((0, 0), (0, 0), (1, 1 + self.odd + more), (0, 0)))

    def cut(self, x, number, reach):
        """The rows of a band, and ``reach`` more."""
        image, at = number // self.per_image, number % self.per_image
        begin = (image * self.images, at * 2 * self.high, 0, 0)
        size = (self.images, 2 * self.high + reach, *x.shape[2:])
        return lax.dynamic_slice(x, begin, size)


def _undilated(x, dilation):
    """[B, H, W, C] -> [B * d * e, H / d, W / e, C]: each d-th row, each e-th column."""
    if dilation == (1, 1):
        return x
    d, e = dilation
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % d), (0, -x.shape[2] % e), (0, 0)))
    b, h, w, c = x.shape
    x = x.reshape(b, h // d, d, w // e, e, c).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(b * d * e, h // d, w // e, c)


def _dilated(y, dilation, size):
    """The inverse of :func:`_undilated`, to a map of ``size``."""
    if dilation == (1, 1):
        return y
    (b, h, w, c), (d, e) = y.shape, dilation
    y = y.reshape(b // (d * e), d, e, h, w, c).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(b // (d * e), h * d, w * e, c)[:, : size[0], : size[1]]


def _seen(x, axis):
    """B' x: of the four values along ``axis`` that each pair of outputs sees."""
    last = x.shape[axis] - 3
    at = [lax.slice_in_dim(x, i, i + last, 2, axis) for i in range(4)]
    return at[0] - at[2], at[1] + at[2], at[2] - at[1], at[1] - at[3]


def _spread(g, axis):
    """A g: a pair of values along ``axis`` at four points."""
    a, b = (lax.slice_in_dim(g, i, None, 2, axis) for i in (0, 1))
    return a, a + b, a - b, -b


def at_points(kernel):
    """G k G' of kernel[3, 3, Ci, Co]: 4 x 4 matrices [Ci, Co]."""
    rows = _combined(POINTS, [kernel[i] / 2 for i in range(3)])
    return [_combined(POINTS, [row[j] / 2 for j in range(3)]) for row in rows]


def _combined(matrix, values):
    """``matrix`` times a list of arrays; factors are 0, 1, -1 or 2."""
    found = []
    for row in matrix:
        terms = [v if f == 1 else f * v for f, v in zip(row, values, strict=True) if f]
        found.append(sum(terms[1:], terms[0]))
    return found
