/* A pruned network: sums over its nonzero weights. Everything is float; needs GCC or Clang, and no library.
 *
 * A plane holds one channel's pixels row by row, with zeros between rows and around the plane. Positions of
 * a plane that are no pixel are zero, which `pixels` (all ones or all zeros for each position) sees to. */

enum { LANES = 16, TILE = 24 };  /* floats in a vector, most vectors in registers */
typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(64), aligned(4), may_alias));
typedef union { int integer; float real; } cell;
struct nonzero { cell offset, weight; };

/* target[o] = relu(bias[o] + addend[o] + sum of weight * source[offset]), where the nonzeros of output channel o
 * are those from starts[o] to starts[o + 1] and, with more blocks of input channels, from
 * starts[block * outputs + o] on: a block's part of a tile stays in the fastest cache for all output channels. */
struct sum {
    const float *source, *addend;   /* addend: or 0 */
    float *target;                  /* may be the addend */
    long addend_plane, target_plane;
    int outputs, blocks, relu;
    const cell *pixels, *starts, *nonzeros, *bias;
};

#define INLINE static inline __attribute__((always_inline))

/* One block's part of one output channel's `vectors` vectors from position `at`, kept in registers. */
INLINE void tile(const struct sum *s, const int vectors, long at, int block, int output)
{
    vector sums[TILE];
    const cell *start = s->starts + block * s->outputs + output;
    const struct nonzero *next = (const struct nonzero *)s->nonzeros + start[0].integer;
    const struct nonzero *end = (const struct nonzero *)s->nonzeros + start[1].integer;
    float *to = s->target + output * s->target_plane + at;
    const float *before = block ? to : s->addend ? s->addend + output * s->addend_plane + at : 0;
    const float bias = block ? 0 : s->bias[output].real;
#pragma GCC unroll 32
    for (int v = 0; v < vectors; v++)
        sums[v] = before ? *(const vector *)(before + LANES * v) + bias : (vector){} + bias;
    for (; next < end; next++) {
        const float *from = s->source + at + next->offset.integer;
        const float weight = next->weight.real;
#pragma GCC unroll 32
        for (int v = 0; v < vectors; v++)
            sums[v] += weight * *(const vector *)(from + LANES * v);
    }
    const int last = block == s->blocks - 1;
#pragma GCC unroll 32
    for (int v = 0; v < vectors; v++) {
        bits kept = (bits)sums[v];
        if (last)
            kept &= *(const bits *)(s->pixels + at + LANES * v);
        if (last && s->relu)
            kept &= sums[v] > 0;
        *(bits *)(to + LANES * v) = kept;
    }
}

/* Planes: `tiles` tiles from position `at` on, for all output channels. */
#define PLANES(VECTORS) \
    _Static_assert(VECTORS <= TILE, "a tile fits into the registers"); \
    static void planes_##VECTORS(const struct sum *s, long at, int tiles) \
    { \
        for (int t = 0; t < tiles; t++, at += VECTORS * LANES) \
            for (int block = 0; block < s->blocks; block++) \
                for (int output = 0; output < s->outputs; output++) \
                    tile(s, VECTORS, at, block, output); \
    }

/* The same for outputs of a single pixel. */
INLINE void pixels(const struct sum *s)
{
    enum { CHAINS = 8 };  /* independent, because each addition waits for the one before it */
    for (int output = 0; output < s->outputs; output++) {
        const struct nonzero *next = (const struct nonzero *)s->nonzeros + s->starts[output].integer;
        const struct nonzero *end = (const struct nonzero *)s->nonzeros + s->starts[output + 1].integer;
        float sums[CHAINS] = {s->bias[output].real};
        for (; next + CHAINS <= end; next += CHAINS)
            for (int c = 0; c < CHAINS; c++)
                sums[c] += next[c].weight.real * s->source[next[c].offset.integer];
        for (; next < end; next++)
            sums[0] += next->weight.real * s->source[next->offset.integer];
        float all = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
        if (s->addend)
            all += s->addend[output * s->addend_plane];
        s->target[output * s->target_plane] = s->relu && !(all > 0) ? 0 : all;
    }
}

/* Copy every `down`-th row and `right`-th column of `channels` planes: rows x columns pixels of each. */
INLINE void split(const float *from, long from_plane, long from_row, float *to, long to_plane, long to_row,
                  int channels, int rows, int columns, const int down, const int right)
{
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < rows; y++) {
            const float *pixel = from + c * from_plane + y * down * from_row;
            float *copy = to + c * to_plane + y * to_row;
            for (int x = 0; x < columns; x++)
                copy[x] = pixel[x * right];
        }
}

/* Largest value of each window; `least` is that of no pixel at all: minus infinity, or 0 for a ReLU. */
INLINE void max_pool(const float *from, long from_plane, long from_row, int from_rows, const int from_columns,
                     float *to, long to_plane, long to_row, int channels, int rows, const int columns,
                     const int down, const int right, const int stride_down, const int stride_right,
                     const int pad_down, const int pad_right, const float least)
{
    float largest[from_columns + 2 * pad_right];
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < rows; y++) {
            const int top = y * stride_down - pad_down;
            for (int x = 0; x < from_columns + 2 * pad_right; x++)
                largest[x] = least;
            for (int i = top < 0 ? 0 : top; i < top + down && i < from_rows; i++) {
                const float *row = from + c * from_plane + i * from_row;
                for (int x = 0; x < from_columns; x++)
                    largest[x + pad_right] = row[x] > largest[x + pad_right] ? row[x] : largest[x + pad_right];
            }
            float *copy = to + c * to_plane + y * to_row;
            for (int x = 0; x < columns; x++) {
                float most = largest[x * stride_right];
                for (int j = 1; j < right; j++)
                    most = largest[x * stride_right + j] > most ? largest[x * stride_right + j] : most;
                copy[x] = most;
            }
        }
}
