#include "runtime/io/settings.h"

#include <gtest/gtest.h>

#include "runtime/io/json.h"
#include "tests/support/errors.h"

namespace loci::test {
namespace {

enum class Colour { red, green };

struct Point {
  int64_t x = 0;
  double weight = 1;
};
void visit_fields(Fields& field, Point& point) {
  field("x", point.x, {0, 9}, "where it lies", Presence::required);
  field("weight", point.weight, {}, "what it counts");
}

struct Drawing {
  int64_t steps = 20;
  int64_t epochs = 0;
  double rate = 0.5;
  bool filled = true;
  std::string separator = " ";
  uint64_t seed = 0;
  Colour colour = Colour::red;
  std::filesystem::path folder;
  std::vector<std::filesystem::path> files;
  Point centre;
  std::optional<Point> corner;
  std::vector<Point> points;
};

constexpr NamedValues<Colour, 3> kColours{{{"red", Colour::red}, {"scarlet", Colour::red}, {"green", Colour::green}}};

void visit_fields(Fields& field, Drawing& drawing) {
  field("steps", drawing.steps, {1, kNoLimit}, "how many");
  field("epochs", drawing.epochs, {1, kNoLimit}, "how often", Presence::off);
  field("rate", drawing.rate, {.min = 0}, "how fast");
  field("filled", drawing.filled, "whether it is");
  field("separator", drawing.separator, "a bar: |");
  field("seed", drawing.seed, "of what is drawn");
  field("colour", drawing.colour, kColours, "of everything");
  field("folder", drawing.folder, "where to", Presence::off);
  field("files", drawing.files, "where from", Presence::off);
  field("centre", drawing.centre, "the middle");
  field("corner", drawing.corner, "the end");
  field("points", drawing.points, "others");
}

Drawing read(const std::string& text) {
  Drawing drawing;
  read_settings(Json::parse(text), "d.json", fields_of(drawing));
  return drawing;
}

std::string written(Drawing drawing) { return settings_to_json(fields_of(drawing)).dump(); }

TEST(Settings, WhatIsLeftOutKeepsItsValue) {
  const char* unset =
      R"({"centre":{"weight":1.0,"x":0},"colour":"red","filled":true,"points":[],"rate":0.5,"seed":0,"separator":" ","steps":20})";
  EXPECT_EQ(written({}), unset);
  EXPECT_EQ(written(read("{}")), unset);
  EXPECT_EQ(written(read(R"({"steps": null, "corner": null, "centre": null})")), unset);
}

TEST(Settings, EveryFieldIsReadAndWritten) {
  const std::string all =
      R"({"centre":{"weight":2.5,"x":3},"colour":"green","corner":{"weight":1.0,"x":9},"epochs":4,"files":["a","b"],)"
      R"("filled":false,"folder":"out","points":[{"weight":0.0,"x":1},{"weight":1.0,"x":2}],"rate":2.0,"seed":7,)"
      R"("separator":"","steps":1})";
  const Drawing drawing = read(all);
  EXPECT_EQ(drawing.centre.x, 3);
  EXPECT_EQ(drawing.centre.weight, 2.5);
  EXPECT_EQ(drawing.colour, Colour::green);
  ASSERT_TRUE(drawing.corner);
  EXPECT_EQ(drawing.corner->x, 9);
  EXPECT_EQ(drawing.epochs, 4);
  EXPECT_EQ(drawing.files, (std::vector<std::filesystem::path>{"a", "b"}));
  EXPECT_FALSE(drawing.filled);
  EXPECT_EQ(drawing.folder, "out");
  ASSERT_EQ(drawing.points.size(), 2u);
  EXPECT_EQ(drawing.points[1].x, 2);
  EXPECT_EQ(drawing.rate, 2);
  EXPECT_EQ(drawing.seed, 7u);
  EXPECT_EQ(drawing.separator, "");
  EXPECT_EQ(drawing.steps, 1);
  EXPECT_EQ(written(drawing), all);
}

TEST(Settings, ShortFormsAreRead) {
  const Drawing drawing = read(R"({"colour": "scarlet", "files": "a", "points": {"x": 5}})");
  EXPECT_EQ(drawing.colour, Colour::red);
  EXPECT_EQ(drawing.files, std::vector<std::filesystem::path>{"a"});
  ASSERT_EQ(drawing.points.size(), 1u);
  EXPECT_EQ(drawing.points[0].x, 5);
}

TEST(Settings, BadOnesAreRefusedInOneSentence) {
  const auto refused = [](const std::string& text) { return error_of<InputError>([&] { read(text); }); };
  EXPECT_EQ(refused(R"({"stepps": 3})"), R"(d.json: field "stepps" is unknown; did you mean "steps"?)");
  EXPECT_EQ(refused(R"({"unheard_of": 3})"), R"(d.json: field "unheard_of" is unknown)");
  EXPECT_EQ(refused(R"({"steps": 0})"), R"(d.json: field "steps" is 0, it must lie between 1 and 1099511627776)");
  EXPECT_EQ(refused(R"({"steps": 1.5})"), R"(d.json: field "steps" must be an integer, got 1.5)");
  EXPECT_EQ(refused(R"({"rate": -1})"), R"(d.json: field "rate" is -1, it must be at least 0)");
  EXPECT_EQ(refused(R"({"rate": "fast"})"), R"(d.json: field "rate" must be a number, got "fast")");
  EXPECT_EQ(refused(R"({"seed": -1})"), R"(d.json: field "seed" is -1, it must be at least 0)");
  EXPECT_EQ(refused(R"({"filled": 1})"), R"(d.json: field "filled" must be true or false, got 1)");
  EXPECT_EQ(refused(R"({"colour": "blue"})"), R"(d.json: field "colour" is "blue"; use red or green)");
  EXPECT_EQ(refused(R"({"centre": 3})"), R"(d.json: field "centre" must be an object, got 3)");
  EXPECT_EQ(refused(R"({"centre": {"x": 1, "y": 2}})"),
            R"(d.json: field "centre": field "y" is unknown; did you mean "x"?)");
  EXPECT_EQ(refused(R"({"corner": {}})"), R"(d.json: field "corner": field "x" is missing: where it lies)");
  EXPECT_EQ(refused(R"({"points": [{"x": 1}, {"x": 10}]})"),
            R"(d.json: field "points": field "x" is 10, it must lie between 0 and 9)");
  EXPECT_EQ(refused(R"({"points": [3]})"), R"(d.json: field "points": must be an object, got 3)");
  EXPECT_EQ(refused(R"({"points": 3})"), R"(d.json: field "points" must be a list, got 3)");
  EXPECT_EQ(refused(R"({"files": [3]})"), R"(d.json: field "files" must be a list of strings, all of them, got 3)");
}

TEST(Settings, UnknownKeysMayBePassedOver) {
  Drawing drawing;
  read_known_settings(Json::parse(R"({"stepps": 3, "steps": 4})"), "d.json", fields_of(drawing));
  EXPECT_EQ(drawing.steps, 4);
}

TEST(Settings, TableTellsValuesAndDefaults) {
  Drawing drawing;
  EXPECT_EQ(settings_table(fields_of(drawing)), R"(| key | value | default | meaning |
|---|---|---|---|
| `steps` | integer from 1 | `20` | how many |
| `epochs` | integer from 1 | none | how often |
| `rate` | number from 0 | `0.5` | how fast |
| `filled` | true or false | `true` | whether it is |
| `separator` | text | `" "` | a bar: \| |
| `seed` | integer from 0 | `0` | of what is drawn |
| `colour` | red or green | `"red"` | of everything |
| `folder` | path | none | where to |
| `files` | path or list of paths | none | where from |
| `centre` | object | none | the middle |
| `centre.x` | integer from 0 to 9 | required | where it lies |
| `centre.weight` | number | `1.0` | what it counts |
| `corner` | object | none | the end |
| `corner.x` | integer from 0 to 9 | required | where it lies |
| `corner.weight` | number | `1.0` | what it counts |
| `points` | object or list of objects | `[]` | others |
| `points.x` | integer from 0 to 9 | required | where it lies |
| `points.weight` | number | `1.0` | what it counts |
)");
}

}  // namespace
}  // namespace loci::test
