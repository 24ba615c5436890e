/* `sinkserve.WindowAttention`, an operator of ONNX Runtime's CPU provider.
 *
 * Of ONNX Runtime's C API, a table of functions that only ever grows, this needs few, named here by their places in it:
 * so nothing but a compiler is needed to build it. They are those of API version 17 and later (onnxruntime 1.17).
 *
 * Source: onnxruntime's onnxruntime_c_api.h, OrtApi, OrtApiBase and OrtCustomOp.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "window_attention.h"

enum { API_VERSION = 17, FLOAT = 1, INT8 = 3, RUNTIME_EXCEPTION = 6 };
typedef void Status; /* null: all is well */
typedef struct {
  const void *const *(*table)(uint32_t version);
  const char *(*version)(void);
} ApiBase;

#define CREATE_STATUS(api) ((Status * (*)(int, const char *)) api[0])
#define CREATE_DOMAIN(api) ((Status * (*)(const char *, void **)) api[26])
#define ADD_OPERATOR(api) ((Status * (*)(void *, const Operator *)) api[27])
#define ADD_DOMAIN(api) ((Status * (*)(void *, void *)) api[28])
#define DATA_OF(api) ((Status * (*)(const void *, void **)) api[51])
#define RANK_OF(api) ((Status * (*)(const void *, size_t *)) api[61])
#define EXTENTS_OF(api) ((Status * (*)(const void *, int64_t *, size_t)) api[62])
#define SHAPE_OF(api) ((Status * (*)(const void *, void **)) api[65])
#define FLOAT_ATTRIBUTE(api) ((Status * (*)(const void *, const char *, float *)) api[85])
#define INTEGER_ATTRIBUTE(api) ((Status * (*)(const void *, const char *, int64_t *)) api[86])
#define INPUT_OF(api) ((Status * (*)(const void *, size_t, const void **)) api[90])
#define OUTPUT_OF(api) ((Status * (*)(void *, size_t, const int64_t *, size_t, void **)) api[91])
#define RELEASE_SHAPE(api) ((void (*)(void *))api[99])
#define IN_PARALLEL(api) ((Status * (*)(const void *, void (*)(void *, size_t), size_t, size_t, void *)) api[274])

typedef struct Operator {
  uint32_t version;
  void *(*create)(const struct Operator *, const void *, const void *);
  const char *(*name)(const struct Operator *);
  const char *(*provider)(const struct Operator *);
  int (*input_type)(const struct Operator *, size_t);
  size_t (*inputs)(const struct Operator *);
  int (*output_type)(const struct Operator *, size_t);
  size_t (*outputs)(const struct Operator *);
  void (*compute)(void *, void *);
  void (*destroy)(void *);
  int (*input_kind)(const struct Operator *, size_t);
  int (*output_kind)(const struct Operator *, size_t);
  int (*input_memory)(const struct Operator *, size_t);
  int (*variadic[4])(const struct Operator *);
  Status *(*create_kernel)(const struct Operator *, const void *const *, const void *, void **);
  Status *(*compute_kernel)(void *, void *);
  Status *(*infer)(const struct Operator *, void *);
  int (*first_version)(const struct Operator *);
  int (*last_version)(const struct Operator *);
} Operator;

enum { QUERY, SINK_QUERY, KEYS, VALUES, BIAS, SCALES, INPUTS };

typedef struct {
  const void *const *api;
  int64_t heads, sinks;
  float scale, cap;
} Kernel;

#define TRY(call)                   \
  do {                              \
    Status *status = (call);        \
    if (status) return status;      \
  } while (0)

static Status *wrong(const void *const *api, const char *why) { return CREATE_STATUS(api)(RUNTIME_EXCEPTION, why); }

static Status *read_input(const void *const *api, const void *context, size_t index, const void **data, int64_t *extents,
                          size_t rank) {
  const void *value = NULL;
  void *shape = NULL;
  size_t dimensions = 0;
  TRY(INPUT_OF(api)(context, index, &value));
  TRY(DATA_OF(api)(value, (void **)data));
  TRY(SHAPE_OF(api)(value, &shape));
  Status *status = RANK_OF(api)(shape, &dimensions);
  if (!status && dimensions == rank) status = EXTENTS_OF(api)(shape, extents, rank);
  RELEASE_SHAPE(api)(shape);
  return status || dimensions == rank ? status : wrong(api, "an input of WindowAttention has another number of extents");
}

static int same(const int64_t *extents, int64_t a, int64_t b, int64_t c, int64_t d) {
  return extents[0] == a && extents[1] == b && extents[2] == c && extents[3] == d;
}

/* Whether all inputs fit each other: a graph may come from elsewhere, and nothing may be read that is not there. */
static int fit(const Attention *a, const int64_t *query, const int64_t *sink_query, const int64_t *values,
               const int64_t *bias, const int64_t *scales) {
  return a->group > 0 && query[2] == a->kv_heads * a->group * a->dim && sink_query[0] == query[0] &&
         sink_query[1] == query[1] && sink_query[2] == query[2] && same(values, a->batch, a->kv_heads, a->rows, a->dim) &&
         same(scales, a->batch, 2 * a->kv_heads, 1, a->rows) && (bias[1] == 1 || bias[1] == a->kv_heads) &&
         (bias[2] == 1 || bias[2] == a->group) && bias[0] == a->batch && bias[3] == a->step && bias[4] == a->rows;
}

static void attend_one(void *attention, size_t head) { attend_head(attention, (int64_t)head); }

static Status *compute(void *made, void *context) {
  const Kernel *kernel = made;
  const void *const *api = kernel->api;
  int64_t query[3], sink_query[3], keys[4], values[4], bias[5], scales[4];
  void *out = NULL;
  Attention a = {.sinks = kernel->sinks, .scale = kernel->scale, .cap = kernel->cap};
  TRY(read_input(api, context, QUERY, (const void **)&a.query, query, 3));
  TRY(read_input(api, context, SINK_QUERY, (const void **)&a.sink_query, sink_query, 3));
  TRY(read_input(api, context, KEYS, (const void **)&a.keys, keys, 4));
  TRY(read_input(api, context, VALUES, (const void **)&a.values, values, 4));
  TRY(read_input(api, context, BIAS, (const void **)&a.bias, bias, 5));
  TRY(read_input(api, context, SCALES, (const void **)&a.scales, scales, 4));
  a.batch = keys[0], a.step = query[1];
  a.kv_heads = keys[1], a.dim = keys[2], a.rows = keys[3];
  a.group = a.kv_heads > 0 && query[0] == a.batch ? kernel->heads / a.kv_heads : 0;
  if (a.sinks > a.rows) a.sinks = a.rows; /* of a young session fewer rows are read */
  a.bias_heads = bias[1], a.bias_group = bias[2];
  if (!fit(&a, query, sink_query, values, bias, scales)) return wrong(api, "inputs of WindowAttention do not fit each other");
  int64_t extents[2] = {a.batch * a.step, query[2]};
  TRY(OUTPUT_OF(api)(context, 0, extents, 2, &out));
  TRY(DATA_OF(api)(out, (void **)&a.out));
  TRY(IN_PARALLEL(api)(context, attend_one, (size_t)(a.batch * a.kv_heads), 0, &a));
  return a.failed ? wrong(api, "no memory for the scores of attention") : NULL;
}

static Status *create_kernel(const Operator *self, const void *const *api, const void *info, void **made) {
  (void)self;
  Kernel kernel = {.api = api};
  TRY(INTEGER_ATTRIBUTE(api)(info, "heads", &kernel.heads));
  TRY(INTEGER_ATTRIBUTE(api)(info, "sinks", &kernel.sinks));
  TRY(FLOAT_ATTRIBUTE(api)(info, "scale", &kernel.scale));
  TRY(FLOAT_ATTRIBUTE(api)(info, "cap", &kernel.cap));
  Kernel *kept = malloc(sizeof *kept);
  if (!kept) return wrong(api, "no memory for an operator");
  *kept = kernel;
  *made = kept;
  return NULL;
}

/* What ONNX Runtime asks of an operator; parameters that do not matter have no names. */
static const char *name(const Operator *self) { return (void)self, "WindowAttention"; }
static const char *provider(const Operator *self) { return (void)self, NULL; } /* the CPU */
static int input_type(const Operator *self, size_t index) {
  return (void)self, index == KEYS || index == VALUES ? INT8 : FLOAT;
}
static int output_type(const Operator *self, size_t index) { return (void)self, (void)index, FLOAT; }
static size_t inputs(const Operator *self) { return (void)self, INPUTS; }
static size_t one_output(const Operator *self) { return (void)self, 1; }
static int zero_of_each(const Operator *self, size_t index) { return (void)self, (void)index, 0; }
static int zero(const Operator *self) { return (void)self, 0; }
static int one(const Operator *self) { return (void)self, 1; }

static const Operator WINDOW_ATTENTION = {
    .version = API_VERSION,
    .name = name,
    .provider = provider,
    .input_type = input_type,
    .inputs = inputs,
    .output_type = output_type,
    .outputs = one_output,
    .destroy = free,
    .input_kind = zero_of_each,
    .output_kind = zero_of_each,
    .input_memory = zero_of_each,
    .variadic = {zero, zero, zero, zero},
    .create_kernel = create_kernel,
    .compute_kernel = compute,
    .first_version = one,
    .last_version = one,
};

/* ONNX Runtime calls this for the options of every session; the domain is one for all, and stays. */
__attribute__((visibility("default"))) Status *RegisterCustomOps(void *options, const ApiBase *base) {
  static void *domain;
  const void *const *api = base->table(API_VERSION);
  if (!domain) {
    void *made = NULL;
    TRY(CREATE_DOMAIN(api)("sinkserve", &made));
    TRY(ADD_OPERATOR(api)(made, &WINDOW_ATTENTION));
    domain = made;
  }
  return ADD_DOMAIN(api)(options, domain);
}
