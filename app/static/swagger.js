// A separate file, since the Content-Security-Policy of the page allows no inline scripts.
"use strict";
const element = document.getElementById("swagger-ui");
window.SwaggerUIBundle({
  url: element.dataset.document,
  domNode: element,
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  validatorUrl: null,
});
