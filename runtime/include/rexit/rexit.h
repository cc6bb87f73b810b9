/* rexit: scores a slate of candidate items for a user with an early-exit language model, and stops computing a candidate at the
 * first exit that is confident about it.
 *
 *   const char *request = "{\"user\": 42, \"items\": [7, 8, 9]}";
 *   rexit_bundle *bundle = NULL;
 *   rexit_session *session = NULL;
 *   const rexit_score *scores = NULL;
 *   size_t count = 0;
 *   if (rexit_bundle_open("path/to/bundle", NULL, &bundle) != REXIT_OK ||
 *       rexit_session_create(bundle, NULL, &session) != REXIT_OK ||
 *       rexit_session_score(session, request, strlen(request), NULL, &scores, &count, NULL) != REXIT_OK)
 *     fprintf(stderr, "%s\n", rexit_last_error());
 *   rexit_session_destroy(session);
 *   rexit_bundle_close(bundle);
 *
 * A request is JSON (docs/format/request.md). rexit_session_score_json answers in JSON, too.
 *
 * Vocabulary
 * - slate: the candidate items scored together for one user. prefix: the part of the prompt that all candidates share.
 * - exit: a depth at which the model can answer. head: computes the answer at an exit. segment: the layers between two exits,
 *   with the head at their end; segment k ends at exit k, and both count from 0.
 * - exit zero: an exit before the first layer, which some bundles have. It answers by a small graph over numbers such as counts
 *   and like rates, or by the request's own scores. It is then exit 0, and segment k ends at exit k + 1.
 * - log-odds: logit(yes) - logit(no) at a head, written z. Calibrated log-odds: c = a z + b, with the exit's Platt map (a, b).
 *   Some policies add weighted log-odds of earlier heads to c: `earlier` in rexit_exit_info.
 * - policy: the rule that decides, from c, whether a candidate stops at an exit.
 * - bundle: a folder with everything needed to score. variant: the segments for a target and precision.
 *
 * Status and errors
 * - Every function that can fail returns a rexit_status; REXIT_OK is 0. rexit_last_error() then describes, in one line, this
 *   thread's last failure. Outputs are written only on success.
 * - All of them may return REXIT_INVALID_ARGUMENT, REXIT_OUT_OF_MEMORY or REXIT_INTERNAL; other statuses are documented with the
 *   functions that return them.
 *
 * Memory
 * - The caller owns every buffer it passes; rexit keeps no pointer to it after the call. A session owns what its calls return:
 *   answers are valid until its next call. The only things to release are handles: rexit_bundle_close() and
 *   rexit_session_destroy().
 * - A bundle may be closed while sessions created from it are still in use: they keep alive what they need.
 * - Strings are UTF-8 and NUL-terminated. Sizes are in bytes, times in microseconds, unless a comment says otherwise.
 *
 * Threads
 * - A bundle is immutable: any number of threads may use it at once.
 * - Any thread may use a session, but only one at a time, until it has read what its call returned, which the next call
 *   overwrites. A call during another call in the same session fails with REXIT_INVALID_ARGUMENT. Give each thread its own
 *   session. rexit_session_cancel(), rexit_session_get_segment() and rexit_session_get_memory() are the exceptions: any thread
 *   may call them at any time, and they do not wait for a running call.
 *
 * Structs
 * - Zero-initialise what you pass, then set what you need. NULL options mean all defaults.
 *
 * Trust
 * - A bundle need not come from a trusted source. Opening checks the structure of all files; a row of the catalog is checked
 *   whenever a request reads it, and an invalid row fails the request with REXIT_CORRUPT. Only rexit_bundle_verify reads all
 *   rows, and only it detects rows in the wrong order, which make answers wrong but do no harm.
 * - Three things remain the caller's responsibility:
 *   Files are memory-mapped and must not be modified in place while the bundle is open. To replace one, rename the new file over
 *   it, as rexit's own tools do. A call that finds a catalog file modified fails with REXIT_MISMATCH, but a file that is modified
 *   during a call, or truncated, can crash the process.
 *   Graphs are as safe as ONNX Runtime.
 *   TensorRT engines contain code: build them on the device, or get them from someone you trust.
 */
#ifndef REXIT_REXIT_H
#define REXIT_REXIT_H

#include <stddef.h>
#include <stdint.h>

#define REXIT_API __attribute__((visibility("default")))

/* The compiler warns where a status is ignored. */
#if defined(__cplusplus) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L)
#define REXIT_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define REXIT_NODISCARD __attribute__((warn_unused_result))
#else
#define REXIT_NODISCARD
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* --- Version ------------------------------------------------------------------------------------------------------------- */

#define REXIT_VERSION_MAJOR 0
#define REXIT_VERSION_MINOR 1
#define REXIT_VERSION_PATCH 0

/* The most candidates of a request, whether it names ids, retrieves them, or has token ids or texts. */
#define REXIT_MAX_CANDIDATES 10000

/* The library's version, "0.1.0". It may differ from that of the header which the program was compiled with. */
REXIT_API const char* rexit_version(void);

/* --- Errors and log ------------------------------------------------------------------------------------------------------ */

/* The numbers never change. 1xx: the caller's arguments; 2xx: files; 3xx: backend; 4xx: limits reached at run time; 9xx: rexit
 * itself. */
typedef enum rexit_status {
  REXIT_OK = 0,
  REXIT_INVALID_ARGUMENT = 100, /* a null pointer, a request that cannot be read, an option out of range */
  REXIT_UNKNOWN_ITEM = 101,     /* an item id that is not in the catalog */
  REXIT_UNKNOWN_VARIANT = 102,  /* the bundle has no such variant */
  REXIT_NOT_FOUND = 200,        /* a file of the bundle, or an engine for this GPU, does not exist or cannot be read */
  REXIT_CORRUPT = 201,          /* a file violates the format (truncated, wrong type, out of range) */
  REXIT_UNSUPPORTED = 202,      /* another schema, or something in a file that this version does not know */
  REXIT_MISMATCH = 203,         /* two files do not belong together (another bundle's catalog, an engine of another graph) */
  REXIT_BACKEND_MISSING = 300,  /* ONNX Runtime is missing or too old, or this machine has no backend for the requested device */
  REXIT_BACKEND_FAILED = 301,   /* the backend rejected a graph or failed while running it */
  REXIT_TOO_LONG = 400,         /* a prompt exceeds the model's limit, or a slate exceeds slate_bytes */
  REXIT_DEADLINE = 401,         /* the deadline passed before any candidate had reached its first exit */
  REXIT_OUT_OF_MEMORY = 402,    /* on the host or on the GPU */
  REXIT_CANCELLED = 403,        /* rexit_session_cancel was called during the call */
  REXIT_INTERNAL = 900          /* a bug in rexit: please report it */
} rexit_status;

/* The status's name, "REXIT_UNKNOWN_ITEM"; "unknown status" for a number that is not a status. Never NULL. */
REXIT_API const char* rexit_status_name(rexit_status status);
/* One line describing this thread's last failure; "" if there was none. Valid until the next failing call in this thread. */
REXIT_API const char* rexit_last_error(void);

typedef enum rexit_log_level {
  REXIT_LOG_DEBUG = 0,
  REXIT_LOG_INFO = 1,
  REXIT_LOG_WARNING = 2,
  REXIT_LOG_ERROR = 3
} rexit_log_level;

/* Sends log lines of at least `level` to `log`, for the whole process; NULL turns logging off, which is the default. A line has
 * no control characters, even if it quotes a damaged file.
 *
 * Several threads may call `log` at the same time. `log` may call any function of rexit, this one included. Calls already running
 * in other threads may still use the previous function: keep its `context` alive until they have returned. */
REXIT_API void rexit_set_log(void (*log)(void* context, rexit_log_level level, const char* line), void* context,
                             rexit_log_level level);

/* --- Looking at a bundle before opening it ------------------------------------------------------------------------------- */

/* A variant as its files describe it. */
typedef struct rexit_variant_info {
  size_t variant_count; /* variants in this bundle */
  char name[256], target[32], precision[32];
  int32_t calibrated; /* 1: it has a policy */
  /* Memory that opening it takes, in bytes, without ONNX Runtime or TensorRT and their working memory. */
  size_t graph_bytes;   /* graphs and weights, loaded once per opened bundle; TensorRT engines may be larger or smaller */
  size_t catalog_bytes; /* memory-mapped: only the pages that requests touch are resident, shared with
                           other processes */
  size_t session_bytes; /* a session's buffers and a prefix at their largest, as after rexit_session_warm_up. In addition:
                           prefixes of earlier requests, up to cache_bytes; hidden states of slates larger than a pass, up to
                           slate_bytes; once for all sessions, the pinned start (see rexit_memory) */
} rexit_variant_info;

/* Describes variant number `index`, from 0, of the bundle at `path`. Checks structure and sizes as rexit_bundle_open does, but
 * does not load the segments. REXIT_UNKNOWN_VARIANT if `index` is not less than the number of variants; any 2xx for its files. */
REXIT_NODISCARD REXIT_API rexit_status rexit_bundle_get_variant(const char* path, size_t index, rexit_variant_info* info_out);

/* Checks everything that rexit_bundle_get_variant checks, every row of the catalog, and the SHA-256 of every file listed, engines
 * included. `variant`: NULL checks all of them. Reads every byte, which takes seconds per gigabyte. REXIT_CORRUPT names the first
 * modified file or the first invalid row. REXIT_UNKNOWN_VARIANT; any 2xx for its files. */
REXIT_NODISCARD REXIT_API rexit_status rexit_bundle_verify(const char* path, const char* variant);

/* --- Bundles ------------------------------------------------------------------------------------------------------------- */

/* An opened bundle with its segments loaded. */
typedef struct rexit_bundle rexit_bundle;

typedef struct rexit_bundle_options {
  const char* variant;             /* by name; NULL: the first with a policy, or else the first */
  const char* onnxruntime_library; /* path of libonnxruntime.so; NULL: $REXIT_ONNXRUNTIME_LIBRARY, else the system's. Loaded once
                                      per process: later opens ignore it */
  const char* device;              /* where the segments run:
                                      "cpu": ONNX Runtime's CPU provider, any variant;
                                      "cuda": ONNX Runtime's CUDA provider, any variant;
                                      "tensorrt": the engines that `rexit compile` built for this GPU, variants for tensorrt only;
                                      NULL: the variant's own target */
  int32_t threads; /* size of the process's thread pool, created by the first open; 0: one per core, or the existing pool's size;
                      a later open with another size is refused. If the program has created ONNX Runtime's environment before,
                      without a pool, every segment has its own pool of this size, whose threads sleep between runs. ONNX Runtime
                      logs to the program if it is the program's environment */
  int32_t device_id;                  /* GPU number, as in CUDA; ignored on the CPU */
  const char* provider;               /* an execution provider by its name in ONNX Runtime, in place of the device's: "OpenVINO",
                                         "XNNPACK", "QNN", "CoreML", whatever the library has; `device` is then NULL or "cpu". For
                                         variants of targets cuda and tensorrt, whose graphs have only ONNX's operators: those that the
                                         provider does not have run on the CPU. It may refuse rexit's own, of target cpu, and round
                                         differently: rexit_session_check_golden compares its answers with the recorded ones */
  const char* const* provider_keys;   /* the provider's own options, [provider_option_count]; may be NULL if there are none */
  const char* const* provider_values; /* their values, likewise */
  size_t provider_option_count;
} rexit_bundle_options;

/* Opens the bundle at `path`: checks structure and sizes, maps the catalog, loads the segments, and computes the pinned start
 * (see rexit_memory). It checks the hash of variant.json. Only rexit_bundle_verify checks the other hashes and all rows of the
 * catalog. Release the bundle with rexit_bundle_close. Logs a warning if the bundle's policy was calibrated on another device or
 * architecture, with another number of threads, or with another version of ONNX Runtime or rexit.
 *
 * REXIT_UNKNOWN_VARIANT; any 2xx for its files; REXIT_BACKEND_MISSING and REXIT_BACKEND_FAILED. */
REXIT_NODISCARD REXIT_API rexit_status rexit_bundle_open(const char* path, const rexit_bundle_options* options,
                                                         rexit_bundle** bundle_out);
/* Opens the folder of an opened bundle again, after `rexit refresh` or `rexit calibrate`: the new catalog and policy
 * are checked and mapped, the loaded segments are shared, and the pinned start if its tokens are the same. That takes
 * milliseconds, and no second copy of the weights. *reloaded_out is a separate bundle, to be closed like any other; or NULL if
 * manifest and policy have not changed, so it may be called every second. `bundle` and its sessions keep the old catalog: no
 * request mixes the two. New sessions start without cached prefixes.
 *
 * REXIT_MISMATCH if the variant's segments or the model have changed: call rexit_bundle_open. Otherwise as rexit_bundle_open for
 * the bundle's files; on failure `bundle` stays usable. */
REXIT_NODISCARD REXIT_API rexit_status rexit_bundle_reload(const rexit_bundle* bundle, rexit_bundle** reloaded_out);
/* Does nothing for NULL. The bundle's sessions remain usable. */
REXIT_API void rexit_bundle_close(rexit_bundle* bundle);

typedef struct rexit_bundle_info {
  size_t users, items;  /* in the catalog */
  size_t exits;         /* with exit zero, if the bundle has it */
  size_t layers;        /* of the whole model */
  size_t max_tokens;    /* candidate tokens that run at once; larger slates are scored in chunks, see slate_bytes */
  size_t max_positions; /* longest prompt, in tokens: the prefix and one candidate */
  int32_t string_user_ids, string_item_ids; /* 1: ids are strings; 0: integers */
  int32_t calibrated;                       /* 1: the variant has a policy; 0: every candidate runs to the last exit */
  int32_t ordered;                          /* of the policy's top-k rule */
  const char* variant;                      /* its name; valid until the bundle is closed */
  size_t top_k;                             /* of the bundle's policy, `top_k.k`, with `ordered`; 0: it has no such rule */
  size_t quorum;                            /* likewise */
  size_t vocabulary;                        /* token ids of a request are below this */
  int32_t has_catalog; /* 1: requests name users and items, or are token ids; 0: token ids only, and the fields above that are
                          about the catalog are 0 */
  float prior_shift;   /* probability = sigmoid(c + prior_shift): where negatives were sampled, it is that in the population */
  const char* policy_sha256; /* digest of the variant's policy.json, in hexadecimal; "" without a policy; valid until the bundle
                                is closed */
  size_t segments;           /* as many as exits, or one less with exit zero */
  size_t scores;             /* so many first stages' `scores` of a request exit zero reads: requests must have some of them */
  const char* const* score_names; /* [scores]; valid until the bundle is closed */
  int32_t takes_texts;            /* 1: a request may be `query` and `documents`; 0: it has token ids in place of texts */
  float rounding;                 /* a score's log-odds may be as far from those of a trace; relative above 1 */
  size_t max_candidates;          /* of a request: REXIT_MAX_CANDIDATES */
} rexit_bundle_info;

REXIT_NODISCARD REXIT_API rexit_status rexit_bundle_get_info(const rexit_bundle* bundle, rexit_bundle_info* info_out);

/* An exit and its part of the bundle's policy, as docs/format/policy.md has it. An `upper` or `lower` of +infinity never stops a
 * candidate. */
typedef struct rexit_exit_info {
  size_t layers; /* layers up to this exit */
  float a, b;    /* Platt map: c = a z + b, plus what `earlier` adds */
  float upper, lower;
  size_t patience;
  float rise, fall; /* of the top-k rule; 0 without it, and at the last exit */
  /* [exit] weights w: the heads of the exits before this one add w[0] z[0] + ... + w[exit - 1] z[exit - 1] to c. NULL: they add
   * nothing. Valid until the bundle is closed. */
  const float* earlier;
  size_t keep; /* candidates that go on at most; 0: no limit */
} rexit_exit_info;

/* `exit` counts from 0. */
REXIT_NODISCARD REXIT_API rexit_status rexit_bundle_get_exit(const rexit_bundle* bundle, size_t exit, rexit_exit_info* info_out);

/* Copies the bundle's file `path`, relative to the bundle like "tokenizer.json", to `buffer`, and writes its size to *bytes_out.
 * If it does not fit into `capacity` bytes, only *bytes_out is written, and `buffer` may be NULL: call with capacity 0 to learn
 * the size, then again. REXIT_NOT_FOUND, or another 2xx. */
REXIT_NODISCARD REXIT_API rexit_status rexit_bundle_read_file(const rexit_bundle* bundle, const char* path, void* buffer,
                                                              size_t capacity, size_t* bytes_out);

/* --- Sessions ------------------------------------------------------------------------------------------------------------ */

/* Buffers and cached prefixes for scoring, used by one thread at a time. Sessions of a bundle share its weights and catalog. */
typedef struct rexit_session rexit_session;

typedef struct rexit_session_options {
  size_t cache_bytes; /* limit for the cached prefixes (keys, values, hidden states) of all requests so far; 0: 32 MiB. When full,
                         it evicts first a prefix that a newer one mostly contains, then the least recently used. The current
                         request's prefix stays even if it alone is larger */
  size_t slate_bytes; /* limit for the hidden states of a slate between two segments; 0: 256 MiB. A larger slate runs in
                         consecutive parts. With a top-k rule or a quorum, which need the whole slate at an exit, it fails with
                         REXIT_TOO_LONG. A single pass runs even if it alone is larger */
} rexit_session_options;

/* Release the session with rexit_session_destroy. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_create(const rexit_bundle* bundle, const rexit_session_options* options,
                                                            rexit_session** session_out);
/* Does nothing for NULL. No call may be running in the session. */
REXIT_API void rexit_session_destroy(rexit_session* session);

/* Runs every segment once on a dummy slate of the largest size of a pass, so that the first request need not allocate a pass's
 * memory. Drops the cached prefixes. REXIT_BACKEND_FAILED; REXIT_CANCELLED. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_warm_up(rexit_session* session);

/* --- Requests ------------------------------------------------------------------------------------------------------------ *
 *
 * A request is a JSON document, [request_bytes], UTF-8; docs/format/request.md lists its fields. It need not end with a NUL. A
 * message about it begins with the path of the field, like `items[3]`. */

/* What the caller of a request decides, not the request. */
typedef struct rexit_call_options {
  int64_t waited_us;   /* since the request arrived, 0 or more: its deadline counts from then */
  int64_t deadline_us; /* of a request without `deadline_ms`, from its arrival; 0: none */
  const char* policy;  /* JSON, [policy_bytes]: replaces the bundle's rules by those of a policy.json, `patience`, `exits` with
                          `upper`, `lower` and `keep`, `quorum` and `top_k`, as docs/format/policy.md has them. The maps `a`, `b`
                          and `earlier` remain the bundle's. NULL: the bundle's policy */
  size_t policy_bytes;
  int32_t has_force_exit; /* 1: every candidate stops at exit `force_exit`, whatever policy and request say */
  uint32_t force_exit;
} rexit_call_options;

/* The `exit` of a candidate without an answer. */
#define REXIT_NO_EXIT UINT32_MAX

typedef struct rexit_score {
  uint32_t item;      /* number of the candidate, from 0, in the request; with `retrieve`, in the order of retrieval */
  uint32_t exit;      /* the exit that answered; REXIT_NO_EXIT if the deadline passed before the first one */
  float probability;  /* of `yes`, calibrated: sigmoid(c + prior_shift); NaN without an answer */
  float log_odds;     /* raw, at that exit; NaN without an answer */
  uint32_t cut_short; /* 1: the deadline stopped this candidate, not the policy */
} rexit_score;

/* The cost of a request. candidate_layers is a sum over candidates: divide by `candidates` for the mean. */
typedef struct rexit_stats {
  uint64_t prefix_tokens;        /* in this request's prefix */
  uint64_t prefix_tokens_reused; /* leading tokens that needed no computation: all if the same prefix is cached; otherwise those
                                    in common with a cached one or with the pinned start (see rexit_memory), if at least a
                                    sixteenth; otherwise 0 */
  uint64_t candidates;           /* of the request */
  uint64_t cut_short;            /* of them, stopped by the deadline, not by the policy */
  uint64_t candidate_tokens;     /* of all candidates that enter the first segment */
  uint64_t candidate_layers;     /* layers run for candidates */
  uint64_t prefix_layers;        /* layers run for the prefix in this call */
  double retrieval_us;           /* reading the request, retrieval, exit zero and prompt assembly */
  double prefix_us, slate_us;    /* for the prefix, and for the candidates; also counted if the deadline passes */
  double total_us;
  int32_t known_user; /* 1: the user is in the catalog; 0: not: a new user, or a mistyped id; or the request is token ids */
} rexit_stats;

/* Scores a slate: *scores_out is [*count_out], in the order of the request or, with `top_k`, best first. `options` and
 * `stats_out` may be NULL. Returns REXIT_OK even if the deadline passed, as long as a candidate has an answer. Logs one warning
 * per opened bundle if its policy decides on a longer slate than in its calibration.
 *
 * REXIT_UNKNOWN_ITEM; REXIT_TOO_LONG; REXIT_DEADLINE if no candidate has an answer, or the deadline passed while the request
 * waited; REXIT_CANCELLED; REXIT_MISMATCH if a file of the catalog was modified; REXIT_CORRUPT if the catalog has no tokens for a
 * candidate; REXIT_BACKEND_FAILED, also if a head's logits are not finite. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_score(rexit_session* session, const char* request, size_t request_bytes,
                                                           const rexit_call_options* options, const rexit_score** scores_out,
                                                           size_t* count_out, rexit_stats* stats_out);

/* The same with an answer in JSON: *answer_out is one line without a newline, [*answer_bytes_out] and a NUL behind it. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_score_json(rexit_session* session, const char* request, size_t request_bytes,
                                                                const rexit_call_options* options, const char** answer_out,
                                                                size_t* answer_bytes_out, rexit_stats* stats_out);

typedef struct rexit_item_id {
  int64_t number;   /* if ids are integers; of a prompt as token ids, the candidate's number */
  const char* text; /* if ids are strings, [text_bytes] without a NUL behind it, valid as long as the session; else NULL */
  size_t text_bytes;
} rexit_item_id;

/* The item's id of a candidate, number `candidate`, from 0, of the session's last score, trace or prompt: what a request with
 * `retrieve` has chosen. Leaves the answer of that call valid; no call may be running in the session. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_get_item(const rexit_session* session, size_t candidate,
                                                              rexit_item_id* id_out);

/* Computes the raw log-odds at every exit, whatever the policy and the request's `top_k`, `deadline_ms` and `force_exit` say.
 * *log_odds_out is [candidates, exits], *count_out the number of candidates. `stats_out` may be NULL. Statuses as for
 * rexit_session_score, except REXIT_DEADLINE. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_trace(rexit_session* session, const char* request, size_t request_bytes,
                                                           const float** log_odds_out, size_t* count_out, rexit_stats* stats_out);

/* A request's token ids, without running the model. */
typedef struct rexit_prompt {
  const int32_t* tokens;
  const size_t* ends; /* [1 + candidate_count]: where the prefix and each candidate behind it end in `tokens` */
  size_t candidate_count;
} rexit_prompt;

/* Assembles the request's prompt. Statuses as for rexit_session_trace, except REXIT_BACKEND_FAILED. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_prompt(rexit_session* session, const char* request, size_t request_bytes,
                                                            rexit_prompt* prompt_out);

/* A golden sample, a slate whose prompt and log-odds were recorded at export, against what is computed here. Lines and numbers
 * are valid until the session's next call. */
typedef struct rexit_golden_check {
  size_t slate_count;     /* golden samples of the variant, for the bundle's catalog */
  size_t candidate_count; /* of this one */
  float tolerance;        /* the largest difference of log-odds that the variant allows */
  float worst;            /* the largest one here; infinity if log-odds are not finite */
  const char* prompt;     /* one line: user, item, token and expected token where the prompt first differs; "" if it does not, or
                             without a catalog */
  const char* log_odds;   /* one line: user, item, exit, log-odds, expected log-odds and tolerance where `worst` is; "" if it is
                             within the tolerance */
  const char* decision;   /* one line: user, cold or warm prefix, item, and where a score first stopped elsewhere than the policy
                             says of `trace`, or with other log-odds; "" if none did */
  const float* trace;     /* [candidate_count, exits]: the log-odds here, as of rexit_session_trace */
} rexit_golden_check;

/* Checks golden sample number `slate`, from 0: for a device or a provider that is new here. Drops the cached prefixes. REXIT_OK
 * also if it differs, which `prompt`, `log_odds` and `decision` say. Any 2xx for the samples' file; otherwise as
 * rexit_session_trace. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_check_golden(rexit_session* session, size_t slate,
                                                                  rexit_golden_check* check_out);

/* May be called from any thread, but not from a signal handler. The call running in this session returns REXIT_CANCELLED soon
 * (ONNX Runtime stops between two operators, TensorRT between two segments), or REXIT_OK if it was about to finish. Does nothing
 * if no call is running. The session can be used again afterwards; it must not be destroyed before this function has returned. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_cancel(rexit_session* session);

/* --- Statistics and memory of a session --------------------------------------------------------------------------------- */

/* A segment's work in a call. Times are of running the segment alone, without packing the slate and applying the policy. */
typedef struct rexit_segment_stats {
  uint64_t prefix_tokens;     /* computed, not taken from the cache */
  uint64_t candidates;        /* that reached this segment */
  uint64_t candidate_tokens;  /* of those candidates */
  double prefix_us, slate_us; /* spent on the prefix, and on candidates; passes side by side share their time */
} rexit_segment_stats;

/* Segment number `segment`, from 0, in this session's last score, trace or warm-up, whether or not that succeeded; during
 * a call, its work so far. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_get_segment(const rexit_session* session, size_t segment,
                                                                 rexit_segment_stats* stats_out);

/* In bytes, without ONNX Runtime's: its weights, and one arena for the runs of all bundles. */
typedef struct rexit_memory {
  size_t prefixes; /* this session's cached prefixes, limited by cache_bytes */
  size_t buffers;  /* this session's other buffers: hidden states, prompts, answers */
  size_t pinned;   /* the pinned start: keys and values of the common start of all prefixes of this bundle, at most of its first
                      4,096 tokens, in host memory, once for all its sessions: kept while the bundle is open, in addition to every
                      session's cache_bytes. 0 if prefixes have no common start */
  size_t gpu; /* with TensorRT: GPU memory for this session's passes, the engines' working memory included; compiled, not run. Its
                 prefixes and hidden states, counted above, are in GPU memory, too. 0 with ONNX Runtime */
} rexit_memory;

/* `prefixes` and `buffers` are those at the end of the session's last call. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_get_memory(const rexit_session* session, rexit_memory* memory_out);

/* Drops the cached prefixes, but not the pinned start; their memory is kept for later ones. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_clear_cache(rexit_session* session);

/* Releases memory: the cached prefixes, the session's buffers and, with TensorRT, its passes' GPU memory. The next request
 * allocates it again. ONNX Runtime keeps its arena. */
REXIT_NODISCARD REXIT_API rexit_status rexit_session_trim(rexit_session* session);

#ifdef __cplusplus
}
#endif
#endif /* REXIT_REXIT_H */
