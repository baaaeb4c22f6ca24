#define POCKETVLM_ISA neoni8mm
#include "peak/peak_kernel.h"
