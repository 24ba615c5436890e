/* Attention of a step's queries over keys and values of 8 bits: the computation, which knows nothing of ONNX Runtime. */
#ifndef SINKSERVE_WINDOW_ATTENTION_H
#define SINKSERVE_WINDOW_ATTENTION_H

#include <stdint.h>

/* All arrays are dense; extents in brackets. `group` query heads share a key/value head. */
typedef struct {
  const float *query;      /* [batch, step, kv_heads * group * dim], at the ring's angle */
  const float *sink_query; /* likewise, at the sinks' */
  const int8_t *keys;      /* [batch, kv_heads, dim, rows] */
  const int8_t *values;    /* [batch, kv_heads, rows, dim] */
  const float *bias;       /* [batch, kv_heads or 1, group or 1, step, rows]: far below 0 where a row is not seen */
  const float *scales;     /* [batch, 2 * kv_heads, 1, rows]: those of keys, then those of values */
  float *out;              /* [batch * step, kv_heads * group * dim] */
  int64_t batch, step, kv_heads, group, dim, rows, sinks;
  int64_t bias_heads, bias_group;
  float scale; /* of scores, before their cap */
  float cap;   /* of scores; 0: none */
  int failed;  /* set where there was no memory */
} Attention;

/* One key/value head of one slot: `head` counts batch * kv_heads. May run beside others of the same attention. */
void attend_head(Attention *attention, int64_t head);

#endif
