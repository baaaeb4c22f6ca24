#define POCKETVLM_ISA avx2
#include "attention/views_kernel.h"
