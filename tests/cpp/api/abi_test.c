/* rexit.h as C99 sees it: layout, null pointers, struct sizes, and one request from open to close. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rexit/rexit.h"

static int failures = 0;

#define EXPECT(condition)                                                                                  \
  do {                                                                                                     \
    if (!(condition)) {                                                                                    \
      fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, rexit_last_error()); \
      ++failures;                                                                                          \
    }                                                                                                      \
  } while (0)

static void numbers_are_fixed(void) {
  EXPECT(REXIT_OK == 0 && REXIT_INVALID_ARGUMENT == 100 && REXIT_UNKNOWN_ITEM == 101 && REXIT_UNKNOWN_VARIANT == 102);
  EXPECT(REXIT_NOT_FOUND == 200 && REXIT_CORRUPT == 201 && REXIT_UNSUPPORTED == 202 && REXIT_MISMATCH == 203);
  EXPECT(REXIT_BACKEND_MISSING == 300 && REXIT_BACKEND_FAILED == 301);
  EXPECT(REXIT_TOO_LONG == 400 && REXIT_DEADLINE == 401 && REXIT_OUT_OF_MEMORY == 402 && REXIT_CANCELLED == 403);
  EXPECT(REXIT_INTERNAL == 900 && REXIT_NO_EXIT == 0xffffffffu);
}

#define END(type, field, size) EXPECT(sizeof(type) == (size) && offsetof(type, field) + sizeof(((type*)0)->field) == (size))

/* No struct ends in padding: a field put there would be read from memory that an older program never set. */
static void structs_end_with_their_last_field(void) {
  if (sizeof(void*) != 8) return; /* numbers below are of 64-bit targets */
  END(rexit_id, text, 16);
  END(rexit_bundle_options, spinning, 96);
  END(rexit_session_options, slate_bytes, 24);
  END(rexit_bundle_info, reserved_2, 136);
  END(rexit_variant_info, session_bytes, 368);
  END(rexit_exit_info, keep, 64);
  END(rexit_top_k, reserved, 40);
  END(rexit_policy, keep, 64);
  END(rexit_input, number, 40);
  END(rexit_tokens, candidate_count, 48);
  END(rexit_request, scores, 160);
  END(rexit_json_options, input_size, 64);
  END(rexit_score, reserved, 24);
  END(rexit_stats, reserved, 104);
  END(rexit_segment_stats, slate_us, 48);
  END(rexit_memory, gpu, 56);
}

static void names_and_version(void) {
  int number;
  EXPECT(strcmp(rexit_version(), "0.1.0") == 0);
  EXPECT(strcmp(rexit_status_name(REXIT_UNKNOWN_ITEM), "REXIT_UNKNOWN_ITEM") == 0);
  EXPECT(strcmp(rexit_status_name((rexit_status)12345), "unknown status") == 0);
  for (number = -1; number <= 1000; ++number) EXPECT(rexit_status_name((rexit_status)number) != NULL);
  EXPECT(rexit_last_error() != NULL);
}

static void null_is_refused(void) {
  rexit_bundle* bundle = NULL;
  rexit_memory memory;
  rexit_bundle_close(NULL);
  rexit_session_destroy(NULL);
  rexit_set_log(NULL, NULL, REXIT_LOG_ERROR);
  EXPECT(rexit_bundle_open(NULL, NULL, &bundle) == REXIT_INVALID_ARGUMENT);
  EXPECT(strstr(rexit_last_error(), "path") != NULL);
  EXPECT(rexit_bundle_open("nowhere", NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_reload(NULL, &bundle) == REXIT_INVALID_ARGUMENT && bundle == NULL);
  EXPECT(rexit_bundle_open("nowhere", NULL, &bundle) == REXIT_NOT_FOUND && bundle == NULL);
  EXPECT(rexit_bundle_get_info(NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_get_exit(NULL, 0, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_create(NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_warm_up(NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_clear_cache(NULL) == REXIT_INVALID_ARGUMENT);
  memory.struct_size = sizeof memory;
  EXPECT(rexit_session_get_memory(NULL, &memory) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_trim(NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_cancel(NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_get_segment(NULL, 0, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_get_variant(NULL, 0, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_verify(NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_score(NULL, NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_trace(NULL, NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_prompt(NULL, NULL, NULL, 0, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_score_json(NULL, NULL, 0, NULL, NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
}

static void options_are_checked(const char* path) {
  rexit_bundle* bundle = NULL;
  rexit_bundle_options options;
  memset(&options, 0, sizeof options);
  EXPECT(rexit_bundle_open(path, &options, &bundle) == REXIT_INVALID_ARGUMENT);
  EXPECT(strstr(rexit_last_error(), "struct_size") != NULL);
  options.struct_size = sizeof options;
  options.variant = "no such";
  EXPECT(rexit_bundle_open(path, &options, &bundle) == REXIT_UNKNOWN_VARIANT);
  options.variant = NULL;
  options.threads = -1;
  EXPECT(rexit_bundle_open(path, &options, &bundle) == REXIT_INVALID_ARGUMENT && bundle == NULL);
}

static const rexit_id user = {106, NULL};
static const rexit_id items[3] = {{-7, NULL}, {8, NULL}, {88, NULL}};

/* Of that user and the first `count` of these items. */
static rexit_request request_of(size_t count) {
  rexit_request request;
  memset(&request, 0, sizeof request);
  request.struct_size = sizeof request;
  request.id_size = sizeof user;
  request.score_size = sizeof(rexit_score);
  request.user = &user;
  request.items = items;
  request.item_count = count;
  return request;
}

#define SCORED(request, scores) EXPECT(rexit_session_score(session, request, scores, NULL) == REXIT_OK)
#define REFUSED(request, scores, text)                                                     \
  do {                                                                                     \
    EXPECT(rexit_session_score(session, request, scores, NULL) == REXIT_INVALID_ARGUMENT); \
    EXPECT(strstr(rexit_last_error(), text) != NULL);                                      \
  } while (0)

/* A newer caller's structs are longer. What it asks for there cannot be done; what it expects there is 0. */
static void long_structs_are_respected(const char* path, const rexit_bundle* bundle, rexit_session* session) {
  struct {
    rexit_bundle_options known;
    int32_t added[2];
  } options;
  struct {
    rexit_policy known;
    float added;
  } policy;
  struct {
    rexit_bundle_info known;
    size_t added;
  } info;
  const float upper[3] = {0, 0, 0};
  rexit_bundle* opened = NULL;
  rexit_request request = request_of(1);
  rexit_score score;

  memset(&options, 0, sizeof options);
  options.known.struct_size = sizeof options;
  EXPECT(rexit_bundle_open(path, &options.known, &opened) == REXIT_OK);
  rexit_bundle_close(opened);
  opened = NULL;
  options.added[1] = 7;
  EXPECT(rexit_bundle_open(path, &options.known, &opened) == REXIT_INVALID_ARGUMENT && opened == NULL);
  EXPECT(strstr(rexit_last_error(), "options: byte 100 of 104 is set, but this library knows only 96") != NULL);
  options.known.struct_size = (size_t)1 << 40; /* nobody set it */
  EXPECT(rexit_bundle_open(path, &options.known, &opened) == REXIT_INVALID_ARGUMENT && opened == NULL);
  EXPECT(strstr(rexit_last_error(), "struct_size is 1099511627776") != NULL);

  memset(&policy, 0, sizeof policy);
  request.policy = &policy.known;
  policy.known.upper = policy.known.lower = upper;
  policy.known.exits = 3;
  policy.known.patience = 1;
  REFUSED(&request, &score, "policy: struct_size is 0");
  policy.known.struct_size = sizeof policy;
  policy.added = 1;
  REFUSED(&request, &score, "policy: byte");
  policy.added = 0;
  SCORED(&request, &score);
  EXPECT(score.exit == 0);
  /* A caller built before `quorum`. */
  policy.known.struct_size = offsetof(rexit_policy, quorum);
  policy.known.quorum = 7;
  SCORED(&request, &score);
  EXPECT(score.exit == 0);
  /* No caller at all: half of a pointer. */
  policy.known.struct_size = offsetof(rexit_policy, top_k) + sizeof(void*) / 2;
  REFUSED(&request, &score, "policy: struct_size is 52");
  policy.known.struct_size = offsetof(rexit_policy, quorum);
  request.reserved = 1;
  REFUSED(&request, &score, "request.reserved is 1");

  memset(&info, 0x5a, sizeof info);
  info.known.struct_size = sizeof info;
  EXPECT(rexit_bundle_get_info(bundle, &info.known) == REXIT_OK && info.known.users == 12 && info.added == 0);
}

/* Ids and scores of a caller whose header has more in them: longer entries, as far apart. */
static void long_entries_are_respected(rexit_session* session) {
  struct {
    rexit_id known;
    int64_t added;
  } ids[3];
  struct {
    rexit_score known;
    int64_t added;
  } scores[2];
  struct {
    rexit_input known;
    int64_t added;
  } input;
  rexit_request request = request_of(2);

  memset(ids, 0, sizeof ids);
  memset(scores, 0x5a, sizeof scores);
  ids[0].known.number = 106;
  ids[1].known.number = 8;
  ids[2].known.number = -7;
  request.id_size = sizeof ids[0];
  request.score_size = sizeof scores[0];
  request.user = &ids[0].known;
  request.items = &ids[1].known;
  SCORED(&request, &scores[0].known);
  EXPECT(scores[0].known.item == 0 && scores[0].added == 0 && scores[1].known.item == 1 && scores[1].added == 0);
  EXPECT(scores[0].known.log_odds != scores[1].known.log_odds);
  ids[2].added = 1;
  REFUSED(&request, &scores[0].known, "items[1]: byte 16 of 24 is set, but this library knows only 16");
  ids[2].added = 0;
  ids[0].added = 1;
  REFUSED(&request, &scores[0].known, "user: byte 16 of 24 is set");
  ids[0].added = 0;
  request.id_size = 0;
  REFUSED(&request, &scores[0].known, "request.id_size is 0, expected the sizeof, 16");
  request.id_size = sizeof ids[0];
  request.score_size = sizeof(rexit_score) - 1;
  REFUSED(&request, &scores[0].known, "request.score_size is 23, expected the sizeof, 24");
  request.score_size = sizeof scores[0];
  request.input_count = 1;
  REFUSED(&request, &scores[0].known, "request.inputs is NULL");
  memset(&input, 0, sizeof input);
  request.inputs = &input.known;
  REFUSED(&request, &scores[0].known, "request.input_size is 0, expected the sizeof, 40");
  request.input_size = sizeof input;
  input.added = 1;
  REFUSED(&request, &scores[0].known, "inputs[0]: byte 40 of 48 is set, but this library knows only 40");
  input.added = 0;
  REFUSED(&request, &scores[0].known, "inputs[0].name is NULL");
  input.known.name = "device";
  REFUSED(&request, &scores[0].known, "inputs.device: the prompt has no such input, it has none");
  request.input_count = 0;
  SCORED(&request, &scores[0].known);
  request.user = NULL;
  REFUSED(&request, &scores[0].known, "user is missing, expected an integer");
}

/* Each field of the rules of the whole slate, out of range. */
static void slate_rules_are_checked(rexit_session* session) {
  const float never[3] = {INFINITY, INFINITY, INFINITY};
  const float no_moves[2] = {0, 0};
  float moves[2] = {100, 100};
  rexit_policy policy;
  rexit_top_k top_k;
  rexit_request request = request_of(2);
  rexit_score scores[2];

  memset(&policy, 0, sizeof policy);
  memset(&top_k, 0, sizeof top_k);
  policy.struct_size = sizeof policy;
  policy.upper = policy.lower = never;
  policy.exits = 3;
  policy.patience = 1;
  policy.top_k = &top_k;
  top_k.k = 1;
  top_k.rise = top_k.fall = moves;
  request.policy = &policy;
  REFUSED(&request, scores, "policy.top_k: struct_size is 0");
  top_k.struct_size = sizeof top_k;
  SCORED(&request, scores);
  top_k.ordered = 2;
  REFUSED(&request, scores, "policy.top_k.ordered is 2, expected 0 or 1");
  top_k.ordered = 0;
  top_k.k = 0;
  REFUSED(&request, scores, "policy.top_k.k is 0, expected 1 to 2147483647");
  top_k.k = (size_t)1 << 31;
  REFUSED(&request, scores, "policy.top_k.k is 2147483648, expected 1 to 2147483647");
  top_k.k = 1;
  top_k.reserved = 3;
  REFUSED(&request, scores, "policy.top_k.reserved is 3, expected 0");
  top_k.reserved = 0;
  top_k.fall = NULL;
  REFUSED(&request, scores, "policy.top_k.fall is NULL");
  top_k.fall = moves;
  moves[1] = -1;
  REFUSED(&request, scores, "policy.top_k.rise[1] is -1, expected a finite number of 0 or more");
  moves[1] = NAN;
  REFUSED(&request, scores, "policy.top_k.rise[1] is");
  moves[1] = INFINITY;
  REFUSED(&request, scores, "policy.top_k.rise[1] is inf");
  top_k.rise = no_moves;
  moves[1] = -1;
  REFUSED(&request, scores, "policy.top_k.fall[1] is -1, expected a finite number of 0 or more");
  policy.top_k = NULL;
  policy.quorum = 0x7fffffff;
  SCORED(&request, scores);
  EXPECT(scores[0].exit == 0);
  policy.quorum += 1;
  REFUSED(&request, scores, "policy.quorum is 2147483648, expected 0 to 2147483647");
}

/* An older caller's info struct ends after `items`; what lies behind it is not ours to touch. */
static void short_structs_are_respected(const rexit_bundle* bundle) {
  rexit_bundle_info info;
  rexit_exit_info exit_info;
  memset(&info, 0x5a, sizeof info);
  info.struct_size = offsetof(rexit_bundle_info, exits);
  EXPECT(rexit_bundle_get_info(bundle, &info) == REXIT_OK);
  EXPECT(info.users == 12 && info.items == 20 && info.struct_size == offsetof(rexit_bundle_info, exits));
  EXPECT(((unsigned char*)&info.exits)[0] == 0x5a);
  info.struct_size = sizeof info;
  EXPECT(rexit_bundle_get_info(bundle, &info) == REXIT_OK);
  EXPECT(info.exits == 3 && info.layers == 4 && info.string_user_ids == 0 && info.calibrated == 0);
  EXPECT(info.top_k == 0 && info.ordered == 0 && info.quorum == 0);
  EXPECT(strcmp(info.variant, "cpu-fp32") == 0);
  exit_info.struct_size = sizeof exit_info;
  EXPECT(rexit_bundle_get_exit(bundle, 1, &exit_info) == REXIT_OK && exit_info.layers == 2 && exit_info.a == 1.0f);
  EXPECT(isinf(exit_info.upper) && exit_info.patience == 1);
  EXPECT(rexit_bundle_get_exit(bundle, 3, &exit_info) == REXIT_INVALID_ARGUMENT);
}

static void one_request(rexit_session* session) {
  const rexit_id nobody[1] = {{4, NULL}};
  rexit_request request = request_of(3);
  rexit_score scores[3];
  rexit_stats stats;
  float log_odds[9];
  rexit_segment_stats segment;
  rexit_memory memory;

  stats.struct_size = sizeof stats;
  EXPECT(rexit_session_trace(session, &request, log_odds, NULL) == REXIT_OK);
  EXPECT(rexit_session_score(session, &request, scores, &stats) == REXIT_OK);
  EXPECT(scores[0].item == 0 && scores[2].item == 2 && scores[1].exit == 2 && scores[1].cut_short == 0);
  EXPECT(scores[1].log_odds == log_odds[5] && stats.known_user == 1 && stats.candidate_layers == 12);
  segment.struct_size = offsetof(rexit_segment_stats, slate_us); /* a caller that wants no more */
  segment.slate_us = 99;
  EXPECT(rexit_session_get_segment(session, 2, &segment) == REXIT_OK && segment.candidates == 3 && segment.slate_us == 99);

  /* A caller built before has_force_exit: its request ends there, and the rest has its default. */
  request.struct_size = offsetof(rexit_request, has_force_exit);
  request.has_force_exit = 1;
  request.force_exit = 99;
  SCORED(&request, scores);
  EXPECT(scores[0].exit == 2);
  request.struct_size = sizeof request;
  REFUSED(&request, scores, "force_exit is 99");

  request = request_of(1);
  request.items = nobody;
  EXPECT(rexit_session_score(session, &request, scores, NULL) == REXIT_UNKNOWN_ITEM);
  EXPECT(strstr(rexit_last_error(), "item 4") != NULL);

  EXPECT(rexit_session_warm_up(session) == REXIT_OK);
  EXPECT(rexit_session_clear_cache(session) == REXIT_OK);
  memory.struct_size = sizeof memory;
  EXPECT(rexit_session_get_memory(session, &memory) == REXIT_OK && memory.prefixes > 0 && memory.buffers > 0);
  EXPECT(rexit_session_trim(session) == REXIT_OK);
  EXPECT(rexit_session_get_memory(session, &memory) == REXIT_OK && memory.prefixes == 0);
  EXPECT(rexit_session_cancel(session) == REXIT_OK);
}

static void count_lines(void* context, rexit_log_level level, const char* line) {
  if (level == REXIT_LOG_INFO && strstr(line, "opened variant cpu-fp32") != NULL) ++*(int*)context;
}

static void log_lines_arrive_from_their_level_on(const char* path) {
  rexit_bundle* bundle = NULL;
  int lines = 0;
  rexit_set_log(count_lines, &lines, REXIT_LOG_WARNING);
  EXPECT(rexit_bundle_open(path, NULL, &bundle) == REXIT_OK && lines == 0);
  rexit_bundle_close(bundle);
  rexit_set_log(count_lines, &lines, REXIT_LOG_INFO);
  EXPECT(rexit_bundle_open(path, NULL, &bundle) == REXIT_OK && lines == 1);
  rexit_bundle_close(bundle);
  rexit_set_log(NULL, NULL, REXIT_LOG_ERROR);
}

int main(void) {
  char path[4096];
  rexit_bundle* bundle = NULL;
  rexit_session* session = NULL;
  const char* folder = getenv("REXIT_TEST_BUNDLES");
  snprintf(path, sizeof path, "%s/sound/bundle", folder != NULL ? folder : "bundles");

  numbers_are_fixed();
  structs_end_with_their_last_field();
  names_and_version();
  null_is_refused();
  options_are_checked(path);
  if (rexit_bundle_open(path, NULL, &bundle) != REXIT_OK || rexit_session_create(bundle, NULL, &session) != REXIT_OK) {
    fprintf(stderr, "%s\n", rexit_last_error());
    return 1;
  }
  log_lines_arrive_from_their_level_on(path);
  short_structs_are_respected(bundle);
  long_structs_are_respected(path, bundle, session);
  long_entries_are_respected(session);
  slate_rules_are_checked(session);
  rexit_bundle_close(bundle); /* the session keeps what it needs */
  one_request(session);
  rexit_session_destroy(session);
  return failures == 0 ? 0 : 1;
}
