# Install rules and the exported package: find_package(loci) gives loci::loci (all libraries) and the command.
include(CMakePackageConfigHelpers)

add_library(loci_all INTERFACE)
set_target_properties(loci_all PROPERTIES EXPORT_NAME loci)
target_link_libraries(loci_all INTERFACE loci_eval loci_trace)

set(loci_libraries loci_options loci_runtime loci_cuda loci_kernels loci_model loci_records loci_trace loci_edit loci_eval loci_all)
foreach(folder options runtime cuda kernels model records trace edit eval)
  set_target_properties(loci_${folder} PROPERTIES EXPORT_NAME ${folder})
endforeach()

install(TARGETS ${loci_libraries} EXPORT loci-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  # Headers include each other relative to the project's root.
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} ${CMAKE_INSTALL_INCLUDEDIR}/loci)
install(TARGETS loci RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
# Completion and manual pages, which the command describes itself.
install(CODE "set(loci_command \"$<TARGET_FILE:loci>\")\nset(loci_share \"${CMAKE_INSTALL_DATADIR}\")\nset(loci_man \"${CMAKE_INSTALL_MANDIR}\")")
install(SCRIPT ${PROJECT_SOURCE_DIR}/cmake/InstallDescriptions.cmake)
foreach(folder runtime kernels model records trace edit eval)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/loci
    FILES_MATCHING PATTERN "*.h")
endforeach()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/loci)
install(EXPORT loci-targets NAMESPACE loci:: DESTINATION ${package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/loci-config.cmake.in
  ${PROJECT_BINARY_DIR}/loci-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/loci-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/loci-config.cmake ${PROJECT_BINARY_DIR}/loci-config-version.cmake
  ${PROJECT_SOURCE_DIR}/cmake/LociDependencies.cmake DESTINATION ${package_dir})

# The command runs these scripts: ../share/loci from its folder, in an installation as in a build.
install(PROGRAMS scripts/plot_trace.py scripts/plot_edit.py scripts/plot_comparison.py scripts/contact_sheet.py scripts/show_edit.py DESTINATION share/loci)
# The scripts find the Python package beside themselves (scripts/loci_package.py).
install(FILES scripts/loci_package.py DESTINATION share/loci)
install(DIRECTORY python/loci DESTINATION share/loci/python PATTERN __pycache__ EXCLUDE)
install(DIRECTORY data/hparams DESTINATION share/loci)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/share)
file(CREATE_LINK ${PROJECT_SOURCE_DIR}/scripts ${PROJECT_BINARY_DIR}/share/loci SYMBOLIC)
