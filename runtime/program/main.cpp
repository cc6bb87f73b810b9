// rexit-run: scores with a bundle where there is no Python. On top of the public rexit.hpp alone.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "commands.hpp"
#include "failure.hpp"

namespace rexit::program {

int exit_code(rexit_status status) noexcept {
  if (status == REXIT_DEADLINE) return too_late;
  if (status / 100 == 1 || status == REXIT_TOO_LONG) return bad_input;
  if (status / 100 == 2) return bad_bundle;
  if (status / 100 == 3) return bad_backend;
  return other_failure;
}

namespace {

const char* const exit_codes =
    "Exit codes: 0 done; 2 bad input; 4 the bundle is missing, damaged or of another version; 6 ONNX Runtime or the device is\n"
    "missing or failed; 7 the deadline passed without an answer; 8 verify found a failure; 1 anything else. An error is one "
    "line\n"
    "on stderr.";

void add_common(CLI::App& command, Common& common) {
  command.add_option("BUNDLE", common.bundle, "The bundle's folder.")->required();
  command.add_option("--variant", common.options.variant, "Which variant. Default: the bundle's first.");
  command.add_flag("--json", common.json, "Print one JSON document instead of tables.");
}

void add_execution(CLI::App& command, BundleOptions& options) {
  command.add_option("--threads", options.threads, "Threads of the backend; 0: one per core.")->check(CLI::Range(0, 1024));
  command.add_option("--device", options.device,
                     "cpu, cuda or tensorrt. Default: the variant's own. The CPU runs every variant.");
  command.add_option("--library", options.onnxruntime_library,
                     "libonnxruntime.so. Default: $REXIT_ONNXRUNTIME_LIBRARY, else the system's.");
}

template <class Options>
void add(CLI::App& app, const char* name, const char* what, const char* more, Options& options, int (*run)(const Options&),
         int& code, void (*add_options)(CLI::App&, Options&)) {
  CLI::App* command = app.add_subcommand(name, what);
  add_options(*command, options);
  command->footer(more);
  command->callback([&options, &code, run] { code = run(options); });
}

void warn(void*, rexit_log_level, const char* line) { std::fprintf(stderr, "rexit-run: warning: %s\n", line); }

int report(const std::string& line, int code) {
  std::fprintf(stderr, "rexit-run: error: %s\n", line.c_str());
  return code;
}

int run(int argc, char** argv) {
  ScoreOptions for_score;
  Common for_verify, for_inspect;
  BenchOptions for_bench;
  ServeOptions for_serve;
  int code = 0;

  CLI::App app("Score slates with an early-exit recommender, without Python: verify, inspect, score, bench, serve.", "rexit-run");
  app.set_version_flag("--version", std::string("rexit-run ") + rexit_version());
  app.require_subcommand(1);
  app.footer(std::string("rexit-run COMMAND --help shows a command's options, with an example.\n\n") + exit_codes);

  add<Common>(
      app, "verify", "Check that a bundle is whole and computes here what it computed where it was exported.",
      "Checks the digests of all files, then, for each variant, that golden samples give the same prompts and the same\n"
      "log-odds within the tolerance recorded at export. If a variant's backend is missing on this machine, only its files\n"
      "are checked, unless the variant or a device is named. Exits with 8 if anything fails.\n\n"
      "  rexit-run verify bundle && systemctl restart recommender",
      for_verify, verify, code, [](CLI::App& command, Common& options) {
        add_common(command, options);
        add_execution(command, options.options);
      });
  add<Common>(app, "inspect", "Show a bundle's variants and the memory they take. Runs no model.", "  rexit-run inspect bundle",
              for_inspect, inspect, code, [](CLI::App& command, Common& options) { add_common(command, options); });
  add<ScoreOptions>(
      app, "score", "Score candidates for one user.",
      "  rexit-run score bundle --user 196 --items 242,302,377\n\n"
      "  rexit-run score bundle --user 99999 --recent 50:1,172:1,288:0 --items 181,210 --top-k 1\n\n"
      "Ids that begin with - and are not numbers: --items=-a,-b.",
      for_score, score, code, [](CLI::App& command, ScoreOptions& options) {
        add_common(command, options);
        command.add_option("--user", options.user, "User id. One that is not in the catalog is placed by --recent.")->required();
        command.add_option("--items", options.items, "Item ids, separated by commas.")->required();
        command.add_option("--recent", options.recent,
                           "Interactions newer than the catalog's, oldest first: ITEM or ITEM:1 liked, ITEM:0 not.");
        command.add_option("--as-of", options.as_of, "Use only interactions before this time. Default: all.");
        command.add_option("--top-k", options.top_k, "Only the k most probable, best first; 0: all, in the order given.");
        command.add_option("--deadline-ms", options.deadline_ms, "Answer with what is known when this time is up.");
        command.add_option("--force-exit", options.force_exit, "Every candidate stops at this exit, counted from 0.");
        add_execution(command, options.options);
      });
  add<BenchOptions>(
      app, "bench", "Measure how long slates of the catalog's items take on this machine.",
      "Full depth, the calibrated policy and every fixed exit alternate inside one loop, each request with a cold prefix and "
      "again\n"
      "with the same prefix warm. `rexit bench` also measures several sessions at once and writes cost profiles.\n\n"
      "  rexit-run bench bundle --slate 50 --requests 200 --threads 2",
      for_bench, bench, code, [](CLI::App& command, BenchOptions& options) {
        add_common(command, options);
        command.add_option("--user", options.users, "User ids, separated by commas, in turn. Default: drawn from the catalog.");
        command.add_option("--slate", options.slate, "Candidates in each request.")
            ->check(CLI::PositiveNumber)
            ->capture_default_str();
        command.add_option("--requests", options.requests, "Requests for each mode: full depth, the policy, each fixed exit.")
            ->check(CLI::Range(1, 1000000))
            ->capture_default_str();
        add_execution(command, options.options);
      });
  add<ServeOptions>(
      app, "serve", "Answer requests: a line of JSON on stdin, a line of JSON on stdout.",
      "A request has `user` and `items`, and may have `id`, `recent`, `as_of`, `top_k`, `deadline_ms` (from the moment its line "
      "was\n"
      "read), `force_exit`. Its answer has its `id` and either `scores` and `stats`, as `score --json` has, or `error` with\n"
      "`status` and `message`. A line that is no request is answered by an error, too. With several sessions answers come as "
      "they\n"
      "are ready; requests of one user go to one session, which keeps that user's prefix. The end of stdin, SIGTERM and SIGINT "
      "end\n"
      "it, with 0, after the requests that were read.\n\n"
      "  echo '{\"id\": 1, \"user\": 196, \"items\": [242, 302], \"recent\": [50, [172, false]]}' | rexit-run serve bundle",
      for_serve, serve, code, [](CLI::App& command, ServeOptions& options) {
        command.add_option("BUNDLE", options.bundle, "The bundle's folder.")->required();
        command.add_option("--variant", options.options.variant, "Which variant. Default: the bundle's first.");
        command.add_option("--sessions", options.sessions, "Requests answered at once.")
            ->check(CLI::Range(1, 64))
            ->capture_default_str();
        command.add_option("--cache-bytes", options.cache_bytes, "For each session's cached prefixes; 0: 32 MiB.");
        add_execution(command, options.options);
      });
  rexit_set_log(warn, nullptr, REXIT_LOG_WARNING);
  try {
    app.parse(argc, argv);
    return code;
  } catch (const CLI::Success& wanted) {  // --help, --version
    return app.exit(wanted);
  } catch (const CLI::ParseError& error) {
    return report(std::string(error.what()) + "; see rexit-run --help", bad_input);
  } catch (const Failure& failure) {
    return report(failure.what(), failure.code());
  } catch (const Error& error) {
    return report(error.what(), exit_code(error.status()));
  } catch (const std::exception& error) {
    return report(error.what(), other_failure);
  }
}

}  // namespace

}  // namespace rexit::program

int main(int argc, char** argv) { return rexit::program::run(argc, argv); }
