/* rexit.h as C99 sees it: numbers, null pointers, and one request from open to close. */
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
  rexit_prompt prompt;
  const rexit_score* scores = NULL;
  const float* log_odds = NULL;
  size_t count = 0;
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
  EXPECT(rexit_session_get_memory(NULL, &memory) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_trim(NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_cancel(NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_get_segment(NULL, 0, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_get_variant(NULL, 0, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_bundle_verify(NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_score(NULL, "{}", 2, NULL, &scores, &count, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_trace(NULL, "{}", 2, &log_odds, &count, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_prompt(NULL, "{}", 2, &prompt) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_score_json(NULL, NULL, 0, NULL, NULL, NULL, NULL) == REXIT_INVALID_ARGUMENT);
}

static void options_are_checked(const char* path) {
  rexit_bundle* bundle = NULL;
  rexit_bundle_options options;
  memset(&options, 0, sizeof options);
  options.variant = "no such";
  EXPECT(rexit_bundle_open(path, &options, &bundle) == REXIT_UNKNOWN_VARIANT);
  options.variant = NULL;
  options.threads = -1;
  EXPECT(rexit_bundle_open(path, &options, &bundle) == REXIT_INVALID_ARGUMENT && bundle == NULL);
}

static const char request[] = "{\"user\": 106, \"items\": [-7, 8, 88]}";

static void bundle_is_described(const rexit_bundle* bundle) {
  rexit_bundle_info info;
  rexit_exit_info exit_info;
  EXPECT(rexit_bundle_get_info(bundle, &info) == REXIT_OK && info.users == 12 && info.items == 20);
  EXPECT(info.exits == 3 && info.layers == 4 && info.string_user_ids == 0 && info.calibrated == 0);
  EXPECT(info.top_k == 0 && info.ordered == 0 && info.quorum == 0);
  EXPECT(strcmp(info.variant, "cpu-fp32") == 0);
  EXPECT(rexit_bundle_get_exit(bundle, 1, &exit_info) == REXIT_OK && exit_info.layers == 2 && exit_info.a == 1.0f);
  EXPECT(isinf(exit_info.upper) && exit_info.patience == 1);
  EXPECT(rexit_bundle_get_exit(bundle, 3, &exit_info) == REXIT_INVALID_ARGUMENT);
}

static void outputs_are_required(rexit_session* session) {
  const rexit_score* scores = NULL;
  const float* log_odds = NULL;
  size_t count = 77;
  EXPECT(rexit_session_score(session, request, strlen(request), NULL, NULL, &count, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(strstr(rexit_last_error(), "scores_out is NULL") != NULL);
  EXPECT(rexit_session_score(session, request, strlen(request), NULL, &scores, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_trace(session, request, strlen(request), NULL, &count, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_trace(session, request, strlen(request), &log_odds, NULL, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_prompt(session, request, strlen(request), NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(count == 77 && scores == NULL && log_odds == NULL);
}

static void one_request(rexit_session* session) {
  static const char unknown[] = "{\"user\": 106, \"items\": [4]}";
  static const char policy[] =
      "{\"patience\": 1, \"exits\": [{\"upper\": 0, \"lower\": 0}, {\"upper\": null}, {}], \"quorum\": 0}";
  const rexit_score* scores = NULL;
  const float* traced = NULL;
  float log_odds;
  size_t count = 0;
  rexit_call_options options;
  rexit_stats stats;
  rexit_segment_stats segment;
  rexit_memory memory;
  rexit_prompt prompt;
  rexit_item_id item;

  EXPECT(rexit_session_prompt(session, request, strlen(request), &prompt) == REXIT_OK && prompt.candidate_count == 3);
  EXPECT(prompt.ends[0] > 0 && prompt.ends[3] > prompt.ends[2] && prompt.tokens[0] >= 0);
  EXPECT(rexit_session_trace(session, request, strlen(request), &traced, &count, NULL) == REXIT_OK && count == 3);
  log_odds = traced[5];
  EXPECT(rexit_session_score(session, request, strlen(request), NULL, &scores, &count, &stats) == REXIT_OK && count == 3);
  EXPECT(scores[0].item == 0 && scores[2].item == 2 && scores[1].exit == 2 && scores[1].cut_short == 0);
  EXPECT(scores[1].log_odds == log_odds && stats.known_user == 1 && stats.candidate_layers == 12);
  EXPECT(rexit_session_get_segment(session, 2, &segment) == REXIT_OK && segment.candidates == 3);
  EXPECT(rexit_session_get_item(session, 1, &item) == REXIT_OK && item.number == 8 && item.text == NULL);
  EXPECT(rexit_session_get_item(session, 3, &item) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_get_item(session, 0, NULL) == REXIT_INVALID_ARGUMENT);
  EXPECT(rexit_session_get_item(NULL, 0, &item) == REXIT_INVALID_ARGUMENT);

  memset(&options, 0, sizeof options);
  options.policy = policy;
  options.policy_bytes = strlen(policy);
  EXPECT(rexit_session_score(session, request, strlen(request), &options, &scores, &count, NULL) == REXIT_OK);
  EXPECT(scores[0].exit == 0);
  options.has_force_exit = 1;
  options.force_exit = 1;
  EXPECT(rexit_session_score(session, request, strlen(request), &options, &scores, &count, NULL) == REXIT_OK);
  EXPECT(scores[0].exit == 1);
  EXPECT(rexit_session_score(session, unknown, strlen(unknown), NULL, &scores, &count, NULL) == REXIT_UNKNOWN_ITEM);
  EXPECT(strstr(rexit_last_error(), "items[0]: item 4") != NULL);

  EXPECT(rexit_session_warm_up(session) == REXIT_OK);
  EXPECT(rexit_session_clear_cache(session) == REXIT_OK);
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
  names_and_version();
  null_is_refused();
  options_are_checked(path);
  if (rexit_bundle_open(path, NULL, &bundle) != REXIT_OK || rexit_session_create(bundle, NULL, &session) != REXIT_OK) {
    fprintf(stderr, "%s\n", rexit_last_error());
    return 1;
  }
  log_lines_arrive_from_their_level_on(path);
  bundle_is_described(bundle);
  outputs_are_required(session);
  rexit_bundle_close(bundle); /* the session keeps what it needs */
  one_request(session);
  rexit_session_destroy(session);
  return failures == 0 ? 0 : 1;
}
