// What the check of golden samples says of scores that their trace contradicts, over a backend that changes its mind.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "session/golden.hpp"
#include "session/host_backend.hpp"

using namespace rexit::core;

namespace {

// Log-odds are 0, but `offset` at one exit of one of a check's three calls: the trace, a score with a cold prefix, one with a
// warm.
class FickleBackend final : public HostBackend {
 public:
  explicit FickleBackend(const Bundle& bundle) : bundle_(bundle) {}
  void run(std::size_t segment, const Pass& pass) const override {
    if (pass.hidden_out != nullptr) std::memset(pass.hidden_out, 0, pass.tokens * bundle_.model().hidden_size * sizeof(float));
    if (segment == 0) (pass.logits == nullptr ? prefixes : rows) += pass.logits == nullptr ? 1 : pass.rows;
    for (std::size_t n = 0; pass.logits != nullptr && n < pass.rows; ++n) {
      pass.logits[2 * n] = 0;
      pass.logits[2 * n + 1] = segment == exit && (rows - 1) / candidates == call ? offset : 0;
    }
  }

  static inline std::size_t candidates = 1, call = 0, exit = 0;
  static inline float offset = 0;
  static inline std::size_t prefixes = 0, rows = 0;  // that the first segment ran

 private:
  const Bundle& bundle_;
};

struct Case {
  std::size_t call, exit;
  float offset;
  const char *prefix, *expected;  // empty: no contradiction
};

TEST(Decisions, AreHeldAgainstTheTrace) {
  using Fickle = FickleBackend;
  const char* folder = std::getenv("REXIT_TEST_GOLDEN");
  const auto loaded = load_over<Fickle>(std::string(folder != nullptr ? folder : "golden") + "/bundle");
  Session session(loaded, 0);
  ASSERT_EQ(loaded->bundle.exits(), 3u);
  Fickle::candidates = check_golden(session, 1).candidates;
  ASSERT_GT(Fickle::candidates, 1u);
  for (const Case& row : {Case{1, 0, 0, "", ""}, Case{1, 2, 5e-5f, "", ""},
                          Case{1, 2, 0.01f, "cold", "log-odds 0.01000 at exit 2, the trace has 0.00000"},
                          Case{2, 2, -0.01f, "warm", "log-odds -0.01000 at exit 2, the trace has 0.00000"},
                          Case{1, 0, 1000, "cold", "log-odds 1000.00000 at exit 0, the trace has 0.00000"},
                          Case{2, 1, 1000, "warm", "log-odds 1000.00000 at exit 1, the trace has 0.00000"},
                          Case{0, 0, 1000, "cold", "log-odds 0.00000 at exit 0, the trace has 1000.00000"}}) {
    Fickle::call = row.call;
    Fickle::exit = row.exit;
    Fickle::offset = row.offset;
    Fickle::prefixes = Fickle::rows = 0;
    const std::string decision = check_golden(session, 1).decision;
    const bool contradicted = *row.expected != 0;
    const std::string where = std::string(", ") + row.prefix + " prefix, item ", expected = std::string(": ") + row.expected;
    EXPECT_EQ(decision.rfind("golden slate 1, user ", 0) == 0, contradicted) << decision;
    EXPECT_NE(decision.find(contradicted ? where : ""), std::string::npos) << decision << " instead of " << where;
    EXPECT_EQ(contradicted ? decision.substr(decision.rfind(": ")) : decision, contradicted ? expected : "");
    const std::size_t cold_calls = 2, calls = 3;
    EXPECT_EQ(Fickle::prefixes, cold_calls) << "the third call finds its prefix in the cache";
    if (row.offset <= 0) EXPECT_EQ(Fickle::rows, calls * Fickle::candidates);
  }
}

}  // namespace
