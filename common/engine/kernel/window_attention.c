/* Attention over the rows of one key/value head, the work of one core.
 *
 * Keys and values are widened to float32 in registers, 64 numbers at a time, and multiplied there, so that each byte of
 * the cache is read once for up to four queries. What a row adds does not depend on how many rows or slots there are
 * besides: a row that is not seen has a weight of exactly 0, and one whose scale is not finite makes its whole head NaN.
 *
 * Vectors are the compiler's (GCC, Clang), for AVX-512: its 32 registers hold the sums of four queries. With fewer or
 * narrower ones the sums go to memory and back at every step, and onnxruntime's products are faster (measured).
 */
#include "window_attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__)
#define WITH_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define WITH_AVX512
#endif

enum { LANES = 16, BLOCK = 64, TOGETHER = 4 };
typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(64), aligned(4)));
typedef float Half __attribute__((vector_size(32)));
typedef float Quarter __attribute__((vector_size(16)));

#define TO_FLOATS(integers) __builtin_convertvector(integers, Floats)
/* Eight lanes of each of two vectors by turns, from lane `a` on; and the same by pairs of lanes. */
#define BY_TURNS(x, y, a) \
  __builtin_shufflevector(x, y, a, a + 16, a + 1, a + 17, a + 2, a + 18, a + 3, a + 19, a + 4, a + 20, a + 5, a + 21, \
                          a + 6, a + 22, a + 7, a + 23)
#define PAIRS_BY_TURNS(x, y, a) \
  __builtin_shufflevector(x, y, a, a + 1, a + 16, a + 17, a + 2, a + 3, a + 18, a + 19, a + 4, a + 5, a + 20, a + 21, \
                          a + 6, a + 7, a + 22, a + 23)

INLINE Floats choose(Integers mask, Floats yes, Floats no) {
  return (Floats)((mask & (Integers)yes) | (~mask & (Integers)no));
}

/* 64 bytes as four vectors: vector i has bytes i, 4 + i, 8 + i, ... */
INLINE void widen(const int8_t *bytes, Floats *wide) {
  Integers four = *(const Integers *)bytes;
  wide[0] = TO_FLOATS((four << 24) >> 24);
  wide[1] = TO_FLOATS((four << 16) >> 24);
  wide[2] = TO_FLOATS((four << 8) >> 24);
  wide[3] = TO_FLOATS(four >> 24);
}

/* What `widen` took apart, in its order. */
INLINE void store_in_order(float *to, const Floats *wide) {
  Floats low = BY_TURNS(wide[0], wide[1], 0), high = BY_TURNS(wide[0], wide[1], 8);
  Floats low2 = BY_TURNS(wide[2], wide[3], 0), high2 = BY_TURNS(wide[2], wide[3], 8);
  *(Floats *)to = PAIRS_BY_TURNS(low, low2, 0);
  *(Floats *)(to + LANES) = PAIRS_BY_TURNS(low, low2, 8);
  *(Floats *)(to + 2 * LANES) = PAIRS_BY_TURNS(high, high2, 0);
  *(Floats *)(to + 3 * LANES) = PAIRS_BY_TURNS(high, high2, 8);
}

/* 64 bytes from `bytes` on, those from `end` on being zeros: a block may reach past its array. */
INLINE const int8_t *within(const int8_t *bytes, const int8_t *end, int8_t *room) {
  if (bytes + BLOCK <= end) return bytes;
  memset(room, 0, BLOCK);
  memcpy(room, bytes, (size_t)(end - bytes));
  return room;
}

/* exp, off by some 1e-7 of it; exactly 0 below -87, where float32 has few numbers left. NaN stays. */
INLINE Floats exponential(Floats x) {
  Integers none = x < -87.0f;
  x = choose(none, (Floats){} - 87.0f, x);
  Floats shifted = x * 1.44269504f;
  Integers power = __builtin_convertvector(shifted + choose(shifted < 0.0f, (Floats){} - 0.5f, (Floats){} + 0.5f), Integers);
  Floats whole = TO_FLOATS(power), rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Floats sum = (Floats){} + 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  return choose(none, (Floats){}, sum * (Floats)((power + 127) << 23));
}

INLINE float sum_of(Floats x) {
  Half half = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  Quarter quarter = __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
  quarter += __builtin_shufflevector(quarter, quarter, 2, 3, 0, 1);
  return quarter[0] + quarter[1];
}

/* For each of `count` queries the sums of `length` blocks of 64 numbers, `step` apart, each times its factor of the query.
 * Nothing from `end` on is read; `inside`: no block reaches so far. `ahead` is how far on the next numbers are asked for. */
INLINE void add_up(float sums_of[TOGETHER][BLOCK], const int8_t *blocks, const int8_t *end, int inside, int64_t step,
                   int64_t length, int64_t ahead, const float *factors, int64_t stride, const int count) {
  int8_t room[BLOCK];
  Floats sums[TOGETHER][4] = {};
  for (int64_t i = 0; i < length; i++) {
    const int8_t *block = blocks + i * step;
    Floats numbers[4];
    __builtin_prefetch(block + ahead);
    widen(inside ? block : within(block, end, room), numbers);
    for (int q = 0; q < count; q++)
      for (int part = 0; part < 4; part++) sums[q][part] += numbers[part] * factors[q * stride + i];
  }
  for (int q = 0; q < count; q++) store_in_order(sums_of[q], sums[q]);
}

/* Scores [count, stride] of `count` queries [count, dim] against the first `rows` of `columns` keys [dim, columns]. */
INLINE void score_some(float *scores, int64_t stride, const float *queries, const int8_t *keys, const float *scales,
                       int64_t rows, int64_t columns, int64_t dim, float scale, const int count) {
  const int64_t ahead = 2 * BLOCK; /* the columns lie too far apart for the processor to see a stream */
  for (int64_t row = 0; row < rows; row += BLOCK) {
    float sums[TOGETHER][BLOCK];
    add_up(sums, keys + row, keys + dim * columns, row + BLOCK <= columns, columns, dim, ahead, queries, dim, count);
    int64_t here = rows - row < BLOCK ? rows - row : BLOCK;
    for (int q = 0; q < count; q++)
      for (int64_t i = 0; i < here; i++) scores[q * stride + row + i] = sums[q][i] * (scales[row + i] * scale);
  }
}

/* Values [rows, dim] by weights [count, stride]: [count, dim]. */
INLINE void mix_some(float *out, const float *weights, int64_t stride, const int8_t *values, int64_t rows, int64_t dim,
                     const int count) {
  for (int64_t d = 0; d < dim; d += BLOCK) {
    float sums[TOGETHER][BLOCK];
    add_up(sums, values + d, values + rows * dim, d + BLOCK <= dim, dim, rows, 16 * dim, weights, stride, count);
    int64_t here = dim - d < BLOCK ? dim - d : BLOCK;
    for (int q = 0; q < count; q++) memcpy(out + q * dim + d, sums[q], (size_t)here * sizeof(float));
  }
}

/* As many queries at once as registers hold sums for. */
#define BY_COUNT(some)            \
  do {                            \
    if (count == 1) some(1);      \
    else if (count == 2) some(2); \
    else if (count == 3) some(3); \
    else some(4);                 \
  } while (0)

WITH_AVX512 static void score(float *scores, int64_t stride, const float *queries, const int8_t *keys,
                              const float *scales, int64_t rows, int64_t columns, int64_t dim, float scale,
                              int64_t count) {
#define SCORE(n) score_some(scores, stride, queries, keys, scales, rows, columns, dim, scale, n)
  for (; count > 0; count -= TOGETHER, scores += TOGETHER * stride, queries += TOGETHER * dim) BY_COUNT(SCORE);
}

WITH_AVX512 static void mix(float *out, const float *weights, int64_t stride, const int8_t *values, int64_t rows,
                            int64_t dim, int64_t count) {
#define MIX(n) mix_some(out, weights, stride, values, rows, dim, n)
  for (; count > 0; count -= TOGETHER, weights += TOGETHER * stride, out += TOGETHER * dim) BY_COUNT(MIX);
}

/* Scores of one query to weights, each times the scale of its row's value; `stride` is a multiple of LANES. */
WITH_AVX512 static void weigh(float *scores, int64_t stride, const float *bias, const float *value_scales,
                              int64_t rows) {
  for (int64_t row = 0; row < rows; row++) scores[row] += bias[row];
  for (int64_t row = rows; row < stride; row++) scores[row] = -INFINITY;
  Floats most = (Floats){} - INFINITY, total = {};
  for (int64_t row = 0; row < stride; row += LANES) {
    Floats here = *(Floats *)(scores + row);
    most = choose(here > most, here, most);
  }
  float largest = most[0];
  for (int lane = 1; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
  for (int64_t row = 0; row < stride; row += LANES) {
    Floats here = exponential(*(Floats *)(scores + row) - largest);
    total += here;
    *(Floats *)(scores + row) = here;
  }
  float share = 1.0f / sum_of(total);
  for (int64_t row = 0; row < rows; row++) scores[row] *= share * value_scales[row];
}

static void cap_scores(float *scores, int64_t rows, float cap) {
  for (int64_t row = 0; row < rows; row++) scores[row] = cap * tanhf(scores[row]);
}

/* One token's queries of the head, [group, dim]. */
static void attend_token(const Attention *a, int64_t slot, int64_t head, int64_t token, float *scores, int64_t stride) {
  int64_t at = ((slot * a->step + token) * a->kv_heads + head) * a->group * a->dim;
  int64_t cache = (slot * a->kv_heads + head) * a->rows * a->dim;
  const float *key_scales = a->scales + (slot * 2 * a->kv_heads + head) * a->rows;
  const int8_t *keys = a->keys + cache;
  score(scores, stride, a->query + at, keys, key_scales, a->rows, a->rows, a->dim, a->scale, a->group);
  if (a->sinks) score(scores, stride, a->sink_query + at, keys, key_scales, a->sinks, a->rows, a->dim, a->scale, a->group);
  for (int64_t g = 0; g < a->group; g++) {
    int64_t bias_head = a->bias_heads == 1 ? 0 : head, bias_query = a->bias_group == 1 ? 0 : g;
    int64_t bias = (((slot * a->bias_heads + bias_head) * a->bias_group + bias_query) * a->step + token) * a->rows;
    if (a->cap != 0.0f) cap_scores(scores + g * stride, a->rows, a->cap);
    weigh(scores + g * stride, stride, a->bias + bias, key_scales + a->kv_heads * a->rows, a->rows);
  }
  mix(a->out + at, scores, stride, a->values + cache, a->rows, a->dim, a->group);
}

void attend_head(Attention *attention, int64_t head) {
  int64_t stride = (attention->rows + LANES - 1) / LANES * LANES;
  float *scores = malloc((size_t)(attention->group * stride) * sizeof(float));
  if (!scores) {
    attention->failed = 1;
    return;
  }
  for (int64_t token = 0; token < attention->step; token++)
    attend_token(attention, head / attention->kv_heads, head % attention->kv_heads, token, scores, stride);
  free(scores);
}
