/* rexit: scores a slate of candidate items with an early-exit language model, stopping each candidate at the first
 * confident exit.
 *
 *   rexit_bundle *bundle;
 *   rexit_session *session;
 *   rexit_bundle_open("bundle", NULL, &bundle);
 *   rexit_session_create(bundle, NULL, &session);
 *   rexit_session_score(session, &request, scores, NULL);
 *
 * Conventions
 * - Every function that can fail returns a rexit_status; REXIT_OK is 0. rexit_last_error() then describes the failure of this
 *   thread's last failing call. Outputs are written only on success.
 * - Strings are UTF-8 and zero-terminated. The caller owns every buffer it passes; nothing returned needs freeing but handles.
 * - Structs begin with `struct_size = sizeof(that struct)`, so that fields can be added. Zero-initialise, set struct_size, set
 *   what you need; `reserved` stays 0. A field beyond the size given has its default. Of a struct longer than this library knows,
 *   fields that are set are refused with REXIT_INVALID_ARGUMENT, and outputs are 0. NULL options mean all defaults.
 * - A bundle is immutable and may be shared by threads. A session belongs to one thread at a time: a call that meets another one
 *   at work fails with REXIT_INVALID_ARGUMENT. A bundle must outlive its sessions' creation only: sessions keep what they need
 *   of it alive.
 * - Bundles need not be trusted: everything rexit reads is checked when a bundle is opened. Three things stay the caller's.
 *   Files: nobody may change a bundle's files in place while it is open; they are memory-mapped and were checked once. Replace
 *   them by renaming, as rexit's own tools do. A call that finds a file of the catalog changed fails with REXIT_MISMATCH; a
 *   change in the midst of a call, or a file cut short, can end the process.
 *   Graphs: they are as safe as ONNX Runtime is.
 *   TensorRT engines: they are code. Build them on the device, or have them from whom you trust.
 */
#ifndef REXIT_REXIT_H
#define REXIT_REXIT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define REXIT_API
#else
#define REXIT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define REXIT_VERSION_MAJOR 0
#define REXIT_VERSION_MINOR 1
#define REXIT_VERSION_PATCH 0
/* 100 for 0.1.0: two digits each for minor and patch. */
#define REXIT_VERSION_NUMBER (REXIT_VERSION_MAJOR * 10000 + REXIT_VERSION_MINOR * 100 + REXIT_VERSION_PATCH)

/* Numbers are fixed for ever. 1xx: the caller's arguments; 2xx: files; 3xx: backend; 4xx: run-time limits; 9xx: our own. */
typedef enum rexit_status {
  REXIT_OK = 0,
  REXIT_INVALID_ARGUMENT = 100, /* a null pointer, a bad struct_size, an option out of range */
  REXIT_UNKNOWN_ITEM = 101,     /* an item id that the catalog does not hold */
  REXIT_UNKNOWN_VARIANT = 102,  /* the bundle has no such variant */
  REXIT_NOT_FOUND = 200,        /* a file of the bundle, or an engine for this GPU, does not exist or cannot be read */
  REXIT_CORRUPT = 201,          /* a file does not hold what the format promises (truncated, wrong type, out of range) */
  REXIT_UNSUPPORTED = 202,      /* a newer schema, or something in `requires` that this version does not know */
  REXIT_MISMATCH = 203,         /* two files do not belong together (a foreign catalog, an engine of another graph) */
  REXIT_BACKEND_MISSING = 300,  /* no ONNX Runtime library or too old a one, or nothing here that runs the device asked for */
  REXIT_BACKEND_FAILED = 301,   /* the backend refused a graph or failed while running it */
  REXIT_TOO_LONG = 400,         /* a prompt longer than the model's limit */
  REXIT_DEADLINE = 401,         /* the deadline passed before any candidate had reached its first exit */
  REXIT_OUT_OF_MEMORY = 402,
  REXIT_CANCELLED = 403, /* rexit_session_cancel was called meanwhile */
  REXIT_INTERNAL = 900   /* a bug in rexit: please report it */
} rexit_status;

typedef enum rexit_log_level {
  REXIT_LOG_DEBUG = 0,
  REXIT_LOG_INFO = 1,
  REXIT_LOG_WARNING = 2,
  REXIT_LOG_ERROR = 3
} rexit_log_level;

typedef struct rexit_bundle rexit_bundle;
typedef struct rexit_session rexit_session;

/* An id as the interactions had it. `text` NULL: the integer `number`; else the string `text`. */
typedef struct rexit_id {
  int64_t number;
  const char* text;
} rexit_id;

typedef struct rexit_bundle_options {
  size_t struct_size;
  const char* variant;             /* NULL: the bundle's first */
  const char* onnxruntime_library; /* path of libonnxruntime; NULL: $REXIT_ONNXRUNTIME_LIBRARY, then the system's. Loaded once
                                      per process: only the first open's counts */
  const char* device;              /* where the segments run:
                                      "cpu": ONNX Runtime's CPU provider, any variant;
                                      "cuda": ONNX Runtime's CUDA provider, any variant;
                                      "tensorrt": the engines that `rexit compile` made for this GPU, variants of target tensorrt;
                                      NULL: the variant's own target */
  int32_t threads;                 /* of the process-wide pool, made by the first open; 0: one per core, or what the pool has;
                                      a later open with another number is refused */
  int32_t device_id;               /* which GPU, as CUDA counts them; unused on the CPU */
  int32_t cuda_graphs;             /* 1: TensorRT itself fills slates up to few sizes and launches each segment of a size that it
                                      meets again as one CUDA graph; refused elsewhere. For GPUs that wait for the CPU to launch */
  int32_t reserved;                /* 0 */
} rexit_bundle_options;

typedef struct rexit_session_options {
  size_t struct_size;
  size_t cache_bytes; /* for the prefixes (keys, values, hidden states) of earlier requests, least recently used ones going first;
                         0: 32 MiB. The prefix of the request at work is held even if it alone is larger */
} rexit_session_options;

typedef struct rexit_bundle_info {
  size_t struct_size; /* set by the caller */
  size_t users, items;
  size_t exits;                             /* heads; exit k is the k-th, from 0 */
  size_t layers;                            /* of the whole model */
  size_t max_tokens;                        /* of candidates in one pass; larger slates are chunked */
  size_t max_positions;                     /* longest prompt */
  int32_t string_user_ids, string_item_ids; /* 1: ids are strings */
  int32_t calibrated;                       /* 1: a policy is present */
  int32_t reserved;
  const char* variant; /* valid as long as the bundle */
} rexit_bundle_info;

/* A variant as its files describe it, before it is opened. */
typedef struct rexit_variant_info {
  size_t struct_size;
  size_t count; /* variants the bundle has */
  char name[256], target[32], precision[32];
  int32_t calibrated; /* 1: a policy is present */
  int32_t reserved;
  /* What opening it takes, in bytes, beside ONNX Runtime or TensorRT themselves and their working memory for one segment, which
   * rexit_session_memory counts once a session has run. */
  size_t graph_bytes;   /* graphs and weights, loaded once per opened bundle; engines differ from them */
  size_t catalog_bytes; /* memory-mapped: the parts that requests touch, shared with other processes */
  size_t session_bytes; /* a session's prefix and buffers at their largest, after rexit_session_warm_up; further prefixes come on
                           top, up to cache_bytes */
} rexit_variant_info;

/* An exit and its calibrated policy (see rexit_policy). `upper` and `lower` are +infinity where the exit never stops. */
typedef struct rexit_exit_info {
  size_t struct_size;
  size_t layers; /* depth of this exit */
  float a, b;    /* Platt map: c = a z + b */
  float upper, lower;
  size_t patience;
} rexit_exit_info;

/* Replaces the bundle's stopping rule for one request; the Platt maps stay the bundle's. A candidate stops at exit k when
 * c >= upper[k] or c <= -lower[k] and its last `patience` heads agree on the sign of c. The last exit always stops. */
typedef struct rexit_policy {
  size_t struct_size;
  const float* upper; /* [exits] */
  const float* lower; /* [exits] */
  size_t exits;       /* must equal the bundle's */
  size_t patience;    /* at least 1 */
} rexit_policy;

typedef struct rexit_request {
  size_t struct_size;
  rexit_id user;                /* a user the catalog does not hold is folded in from recent_items */
  const rexit_id* items;        /* the slate [item_count] */
  size_t item_count;            /* at least 1 */
  const rexit_id* recent_items; /* interactions newer than the catalog's, oldest first; may be NULL */
  const uint8_t* recent_liked;  /* [recent_count], 1 = liked; NULL: all liked */
  size_t recent_count;
  int32_t has_as_of; /* 1: only the catalog's interactions with time < as_of reach the prompt; 0: all do */
  int32_t reserved;
  int64_t as_of;
  const rexit_policy* policy; /* NULL: the bundle's */
  int32_t has_force_exit;     /* 1: every candidate stops at exit `force_exit` */
  uint32_t force_exit;
  int64_t deadline_us; /* from the start of the call; no segment starts after it, and candidates answer from the deepest exit they
                          reached, see rexit_score; 0: none */
  size_t top_k; /* 0: all, in request order; else the k with the largest a * log_odds + b, best first (ties: request order; those
                   without an answer last) */
} rexit_request;

#define REXIT_NO_EXIT UINT32_MAX

typedef struct rexit_score {
  uint32_t item;      /* index into request.items */
  uint32_t exit;      /* the exit that answered; REXIT_NO_EXIT if the deadline passed before the first one */
  float probability;  /* of `yes`: sigmoid(a * log_odds + b); NaN without an answer */
  float log_odds;     /* raw, logit(yes) - logit(no), at that exit; NaN without an answer */
  uint32_t cut_short; /* 1: the deadline stopped this candidate, not the policy */
  uint32_t reserved;
} rexit_score;

typedef struct rexit_stats {
  size_t struct_size;
  uint64_t prefix_tokens;        /* in this request's prefix */
  uint64_t prefix_tokens_reused; /* its first tokens that the cache held: all of them for a prefix met before,
                                    else those shared with the start of one, if at least a quarter; else 0 */
  uint64_t candidate_tokens;     /* of all candidates, before any exit */
  uint64_t candidate_layers;     /* layers run, summed over candidates: divide by item_count for the mean */
  uint64_t prefix_layers;        /* layers of the prefix computed in this call */
  double retrieval_us, prefix_us, slate_us, total_us; /* retrieval includes prompt assembly; calls cut short count as others do */
} rexit_stats;

/* What one segment did in a call. Times are those of its passes alone, without packing and deciding. */
typedef struct rexit_segment_stats {
  size_t struct_size;
  uint64_t prefix_tokens;    /* computed, not found in the cache */
  uint64_t candidates;       /* that went through it */
  uint64_t candidate_tokens; /* of those */
  double prefix_us, slate_us;
} rexit_segment_stats;

typedef struct rexit_memory {
  size_t struct_size;
  size_t prefixes; /* this session's cached prefixes: what cache_bytes bounds */
  size_t buffers;  /* this session's other buffers: hidden states, prompts, answers */
  /* Of the host's memory, for all sessions of the process; 0 with TensorRT, and without what providers hold on a GPU: */
  size_t working; /* ONNX Runtime's, for what segments need while they run */
  size_t weights; /* ONNX Runtime's, as long as bundles are open, but for weights that it maps from their files. Older versions
                     do not tell them from working memory: they are in `working` then */
} rexit_memory;

/* "0.1.0" */
REXIT_API const char* rexit_version(void);
/* REXIT_VERSION_NUMBER of the library that runs, where the macro is the header's. */
REXIT_API int32_t rexit_version_number(void);
/* "REXIT_UNKNOWN_ITEM"; "unknown status" for a number that is none. Never NULL. */
REXIT_API const char* rexit_status_name(rexit_status status);
/* One line on this thread's last failure, "" if none. Valid until this thread's next failing call. */
REXIT_API const char* rexit_last_error(void);
/* Sends log lines at or above `level` to `log`; NULL switches logging off (the default). `log` may be called by several threads
 * at once, and may itself call any function of rexit, this one included. The one it replaces may still get lines from calls that
 * are at work in other threads: keep its `context` until they have returned. */
REXIT_API void rexit_set_log(void (*log)(void* context, rexit_log_level level, const char* line), void* context,
                             rexit_log_level level);

/* Tells of a bundle's variant number `index`, from 0, without loading its segments; its files are checked as by
 * rexit_bundle_open. REXIT_UNKNOWN_VARIANT when there are fewer. */
REXIT_API rexit_status rexit_bundle_get_variant(const char* path, size_t index, rexit_variant_info* info_out);
/* Checks what rexit_bundle_open checks, and the SHA-256 of every listed file, engines' included. `variant` NULL: of all variants.
 * Reads every byte: some seconds per gigabyte. REXIT_CORRUPT names the first file that was edited. */
REXIT_API rexit_status rexit_bundle_verify(const char* path, const char* variant);
/* Opens a bundle folder: checks structure and sizes (hashes are rexit_bundle_verify's work), maps the catalog, loads the
 * segments. */
REXIT_API rexit_status rexit_bundle_open(const char* path, const rexit_bundle_options* options, rexit_bundle** bundle_out);
REXIT_API void rexit_bundle_close(rexit_bundle* bundle); /* NULL is fine */
REXIT_API rexit_status rexit_bundle_get_info(const rexit_bundle* bundle, rexit_bundle_info* info_out);
REXIT_API rexit_status rexit_bundle_get_exit(const rexit_bundle* bundle, size_t exit, rexit_exit_info* info_out);

REXIT_API rexit_status rexit_session_create(rexit_bundle* bundle, const rexit_session_options* options,
                                            rexit_session** session_out);
REXIT_API void rexit_session_destroy(rexit_session* session); /* NULL is fine */
/* Runs every segment once on a made-up slate, as large as one pass takes, so that the first real request pays for no allocation.
 * Forgets the cached prefixes. */
REXIT_API rexit_status rexit_session_warm_up(rexit_session* session);
REXIT_API rexit_status rexit_session_memory(const rexit_session* session, rexit_memory* memory_out);
/* Forgets the cached prefixes. The next request computes its own. */
REXIT_API rexit_status rexit_session_clear_cache(rexit_session* session);
/* Gives memory back: the cached prefixes, the session's buffers, and what the backend's working memory has to spare. The next
 * request takes what it needs again. */
REXIT_API rexit_status rexit_session_trim(rexit_session* session);
/* From any thread, but no signal handler: makes the call at work in this session return REXIT_CANCELLED soon (ONNX Runtime stops
 * between two operators, TensorRT between two segments), or REXIT_OK if it is about done. Without a call at work it does nothing.
 * The session serves further calls; it must not be destroyed before this returns. */
REXIT_API rexit_status rexit_session_cancel(rexit_session* session);

/* Scores a slate. scores_out has room for min(top_k or item_count, item_count) entries. stats_out may be NULL. REXIT_OK also when
 * the deadline cut it short, as long as one candidate has an answer. */
REXIT_API rexit_status rexit_session_score(rexit_session* session, const rexit_request* request, rexit_score* scores_out,
                                           rexit_stats* stats_out);
/* Every exit's raw log-odds, ignoring policy, force_exit, deadline and top_k: log_odds_out is float [item_count, exits]. */
REXIT_API rexit_status rexit_session_trace(rexit_session* session, const rexit_request* request, float* log_odds_out,
                                           rexit_stats* stats_out);
/* What segment `segment`, from 0, did in this session's last score, trace or warm-up, failed ones included. */
REXIT_API rexit_status rexit_session_get_segment(const rexit_session* session, size_t segment, rexit_segment_stats* stats_out);
/* The assembled prompt: the prefix's tokens, then each candidate's. offsets_out[0] = 0, offsets_out[1] ends the prefix,
 * offsets_out[2 + i] ends candidate i: item_count + 2 numbers. *count_out is the number of tokens; if it is larger than
 * `capacity` nothing else is written (tokens_out and offsets_out may then be NULL), so call twice. */
REXIT_API rexit_status rexit_session_prompt(rexit_session* session, const rexit_request* request, int32_t* tokens_out,
                                            size_t capacity, size_t* offsets_out, size_t* count_out);

#ifdef __cplusplus
}
#endif
#endif /* REXIT_REXIT_H */
