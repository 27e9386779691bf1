# Lists the tests of one GoogleTest program for ctest, one entry for each suite:
#   cmake -DPROGRAM=... -DOUTPUT=FILE.cmake -DPREFIX=... -DFILTER=... -DLABEL=... -DENVIRONMENT=A=1,B=2 -P LociDiscoverTests.cmake
# One entry for each test, as gtest_discover_tests makes them, starts a process for each: 0.2 s with the libraries of CUDA,
# and there are 4000 tests.

# Sets `suites`, and tests_SUITE for each of them, to the tests that match the filter.
function(list_tests filter prefix)
  execute_process(COMMAND ${PROGRAM} --gtest_list_tests --gtest_filter=${filter} OUTPUT_VARIABLE lines RESULT_VARIABLE failed TIMEOUT 60)
  if(failed)
    message(FATAL_ERROR "${PROGRAM} does not list its tests (${failed}):\n${lines}")
  endif()
  string(REPLACE ";" "," lines "${lines}")
  string(REPLACE "\n" ";" lines "${lines}")
  set(suites)
  foreach(line IN LISTS lines)
    string(REGEX REPLACE " +#.*" "" line "${line}")
    if(line MATCHES "^  (.+)")
      list(APPEND ${prefix}${suite} "${CMAKE_MATCH_1}")
      set(${prefix}${suite} "${${prefix}${suite}}" PARENT_SCOPE)
    elseif(line MATCHES "^([^ ]+)\\.$")
      set(suite ${CMAKE_MATCH_1})
      list(APPEND suites ${suite})
    endif()
  endforeach()
  set(suites "${suites}" PARENT_SCOPE)
endfunction()

list_tests("*" all_)
list_tests("${FILTER}" chosen_)
string(REPLACE "," ";" environment "${ENVIRONMENT}")
# What GoogleTest prints last where nothing failed and something was skipped, or everything (tests/support/device.h).
set(skipped [=[PASSED  . [0-9]+ tests?\.\n(.  SKIPPED .[^\n]*\n)+$;PASSED  . 0 tests\.\n$]=])
set(listing "")
foreach(suite IN LISTS suites)
  set(filter "${suite}.*")
  if(NOT "${chosen_${suite}}" STREQUAL "${all_${suite}}")
    list(TRANSFORM chosen_${suite} PREPEND "${suite}." OUTPUT_VARIABLE filter)
    list(JOIN filter ":" filter)
  endif()
  string(APPEND listing "add_test([==[${PREFIX}${suite}]==] [==[${PROGRAM}]==] [==[--gtest_filter=${filter}]==])\n"
    "set_tests_properties([==[${PREFIX}${suite}]==] PROPERTIES LABELS ${LABEL} TIMEOUT 600 ENVIRONMENT [==[${environment}]==]\n"
    "  SKIP_REGULAR_EXPRESSION [==[${skipped}]==] ${PROPERTIES})\n")
endforeach()
file(WRITE ${OUTPUT} "${listing}")
