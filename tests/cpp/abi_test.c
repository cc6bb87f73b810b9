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
  EXPECT(REXIT_TOO_LONG == 400 && REXIT_DEADLINE == 401 && REXIT_OUT_OF_MEMORY == 402 && REXIT_INTERNAL == 900);
  EXPECT(sizeof(rexit_score) == 24 && sizeof(rexit_id) == 8 + sizeof(void*));
}

static void names_and_version(void) {
  EXPECT(strcmp(rexit_version(), "0.1.0") == 0);
  EXPECT(strcmp(rexit_status_name(REXIT_UNKNOWN_ITEM), "REXIT_UNKNOWN_ITEM") == 0);
  EXPECT(strcmp(rexit_status_name((rexit_status)12345), "unknown status") == 0);
  EXPECT(rexit_last_error() != NULL);
}

static void null_is_refused(void) {
  rexit_bundle* bundle = NULL;
  size_t bytes = 0;
  rexit_bundle_close(NULL);
  rexit_session_destroy(NULL);
  rexit_set_log(NULL, NULL, REXIT_LOG_ERROR);
  EXPECT(rexit_bundle_open(NULL, NULL, &bundle) == REXIT_INVALID_ARGUMENT);
  EXPECT(strstr(rexit_last_error(), "path") != NULL);
  EXPECT(rexit_bundle_open("nowhere", NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_open("nowhere", NULL, &bundle) == REXIT_NOT_FOUND && bundle == NULL);
  EXPECT(rexit_bundle_get_info(NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_get_exit(NULL, 0, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_create(NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_warm_up(NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_clear_cache(NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_memory(NULL, &bytes) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_score(NULL, NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_trace(NULL, NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_prompt(NULL, NULL, NULL, 0, NULL, NULL) == REXIT_INVALID_ARGUMENT);
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
  EXPECT(strcmp(info.variant, "cpu-fp32") == 0);
  exit_info.struct_size = sizeof exit_info;
  EXPECT(rexit_bundle_get_exit(bundle, 1, &exit_info) == REXIT_OK && exit_info.layers == 2 && exit_info.a == 1.0f);
  EXPECT(isinf(exit_info.upper) && exit_info.patience == 1);
  EXPECT(rexit_bundle_get_exit(bundle, 3, &exit_info) == REXIT_INVALID_ARGUMENT);
}

static void one_request(rexit_session* session) {
  const rexit_id items[3] = {{-7, NULL}, {8, NULL}, {88, NULL}};
  const rexit_id nobody[1] = {{4, NULL}};
  rexit_request request;
  rexit_score scores[3];
  rexit_stats stats;
  float log_odds[9];
  size_t count = 0, bytes = 0;
  size_t offsets[5];
  int32_t* tokens;

  memset(&request, 0, sizeof request);
  memset(scores, 0, sizeof scores);
  request.struct_size = sizeof request;
  request.user.number = 106;
  EXPECT(rexit_session_score(session, &request, scores, NULL) == REXIT_INVALID_ARGUMENT);
  request.items = items;
  request.item_count = 3;
  stats.struct_size = sizeof stats;
  EXPECT(rexit_session_trace(session, &request, log_odds, NULL) == REXIT_OK);
  EXPECT(rexit_session_score(session, &request, scores, &stats) == REXIT_OK);
  EXPECT(scores[0].item == 0 && scores[2].item == 2 && scores[1].exit == 2 && scores[1].cut_short == 0);
  EXPECT(scores[1].log_odds == log_odds[5]);
  EXPECT(stats.prefix_tokens > 0 && stats.prefix_tokens_reused == stats.prefix_tokens && stats.candidate_layers == 12);

  /* A caller built before has_force_exit: its request ends there, and the rest has its default. */
  request.struct_size = offsetof(rexit_request, has_force_exit);
  request.has_force_exit = 1;
  request.force_exit = 99;
  EXPECT(rexit_session_score(session, &request, scores, NULL) == REXIT_OK && scores[0].exit == 2);
  request.struct_size = sizeof request;
  EXPECT(rexit_session_score(session, &request, scores, NULL) == REXIT_INVALID_ARGUMENT);
  request.force_exit = 0;
  EXPECT(rexit_session_score(session, &request, scores, NULL) == REXIT_OK && scores[0].exit == 0);

  memset(scores, 0x5a, sizeof scores);
  request.top_k = 1;
  EXPECT(rexit_session_score(session, &request, scores, NULL) == REXIT_OK);
  EXPECT(scores[0].item < 3 && scores[1].item == 0x5a5a5a5a);

  request.items = nobody;
  request.item_count = 1;
  memset(scores, 0x5a, sizeof scores);
  EXPECT(rexit_session_score(session, &request, scores, NULL) == REXIT_UNKNOWN_ITEM && scores[0].item == 0x5a5a5a5a);
  EXPECT(strstr(rexit_last_error(), "item 4") != NULL);

  request.items = items;
  request.item_count = 3;
  EXPECT(rexit_session_prompt(session, &request, NULL, 0, NULL, &count) == REXIT_OK && count > 0);
  tokens = malloc(count * sizeof *tokens);
  EXPECT(rexit_session_prompt(session, &request, tokens, count, offsets, &count) == REXIT_OK);
  EXPECT(offsets[0] == 0 && offsets[1] == stats.prefix_tokens && offsets[4] == count);
  free(tokens);

  EXPECT(rexit_session_warm_up(session) == REXIT_OK);
  EXPECT(rexit_session_clear_cache(session) == REXIT_OK);
  EXPECT(rexit_session_memory(session, &bytes) == REXIT_OK && bytes > 0);
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
  names_and_version();
  null_is_refused();
  options_are_checked(path);
  if (rexit_bundle_open(path, NULL, &bundle) != REXIT_OK || rexit_session_create(bundle, NULL, &session) != REXIT_OK) {
    fprintf(stderr, "%s\n", rexit_last_error());
    return 1;
  }
  log_lines_arrive_from_their_level_on(path);
  short_structs_are_respected(bundle);
  rexit_bundle_close(bundle); /* the session keeps what it needs */
  one_request(session);
  rexit_session_destroy(session);
  return failures == 0 ? 0 : 1;
}
